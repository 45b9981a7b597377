"""The ``course`` command: its subcommands, and errors as one sentence."""

from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from course_utils.cli.doctor import doctor
from course_utils.cli.lab import lab
from course_utils.cli.recipes import recipes
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
    add_completion=False,
    help="A hands-on course in efficient fine-tuning of language models.",
)
app.command()(doctor)
# What JupyterLab understands goes on to it.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(lab)
app.command()(run)
app.command()(recipes)


if __name__ == "__main__":
    app()
