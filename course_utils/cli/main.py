"""The ``course`` command: its subcommands, and errors as one sentence."""

from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from course_utils.cli.address import address
from course_utils.cli.copies import notebooks, update
from course_utils.cli.doctor import doctor
from course_utils.cli.fit import fit
from course_utils.cli.lab import lab
from course_utils.cli.pack import pack
from course_utils.cli.progress import progress, reset
from course_utils.cli.recipes import recipes
from course_utils.cli.review import quiz, review
from course_utils.cli.run import run

_EXPECTED_ERRORS = (ValueError, OSError, ModuleNotFoundError)


class _OneSentenceErrors(TyperGroup):
    """Show the package's own errors, which say what to do, without a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # noqa: ANN401
        try:
            return super().invoke(ctx)
        except _EXPECTED_ERRORS as error:
            Console(stderr=True).print(Text(f"error: {error}", style="bold red"), soft_wrap=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_OneSentenceErrors,
    no_args_is_help=True,
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        Console().print(f"course-utils {metadata.version('course-utils')}", highlight=False)
        raise typer.Exit


@app.callback()
def _course(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Learn efficient fine-tuning of language models by measuring it."""


app.command()(doctor)
# What JupyterLab understands goes on to it.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(lab)
app.command()(run)
app.command()(notebooks)
app.command()(update)
app.command()(pack)
app.command()(address)
app.command()(recipes)
app.command()(fit)
app.command()(review)
app.command()(quiz)
app.command()(progress)
app.command()(reset)


if __name__ == "__main__":
    app()
