"""The ``course`` command: a function decorated with ``@app.command()`` is a new subcommand."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

if TYPE_CHECKING:
    from course_utils.cli.doctor import Check

_STATUS_STYLES = {"ok": "green", "warning": "yellow", "broken": "bold red"}
_EXPECTED_ERRORS = (ValueError, OSError, ModuleNotFoundError)
_FOLDER_HELP = "Folder of the notebooks; the checkout's by default."

console = Console()


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


@app.callback()
def course() -> None:
    """Keep subcommands subcommands even while there is only one."""


@app.command()
def doctor() -> None:
    """Check the machine and the installation; exit with 1 if something is broken."""
    from course_utils.cli.doctor import iterate_checks

    counts: Counter[str] = Counter()
    with console.status("looking") as status:
        for check in iterate_checks(lambda subject: status.update(f"looking at {subject}")):
            counts[check.status] += 1
            console.print(_format_check(check), soft_wrap=True)
    summary = ", ".join(f"{counts[name]} {name}" for name in _STATUS_STYLES)
    console.print(Text(summary, style="bold"))
    if counts["broken"]:
        raise typer.Exit(1)


def _format_check(check: "Check") -> Text:
    text = Text(f"{check.status:8}", style=_STATUS_STYLES[check.status])
    text.append(f"{check.name:16}{check.detail}", style="not bold default")
    if check.fix:
        text.append(f"\n{'':8}{'fix:':>15} {check.fix}", style="not bold default")
    return text


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    browser: Annotated[
        bool, typer.Option(help="Open a browser, where there is a screen to show it on.")
    ] = True,
    ip: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    folder: Annotated[Path | None, typer.Option(help=_FOLDER_HELP)] = None,
) -> None:
    """Open JupyterLab on the first chapter; further arguments are JupyterLab's own."""
    from course_utils.cli.lab import has_screen, lab_arguments, open_lab
    from course_utils.cli.notebooks.files import notebooks_dir, select_notebooks
    from course_utils.paths import checkout_dir

    chapter = select_notebooks(folder or notebooks_dir())[0]
    root = folder or checkout_dir() or chapter.parent
    has_browser = browser and has_screen()
    console.print("JupyterLab is starting; Ctrl-C, twice, stops it.")
    if browser and not has_browser:
        console.print("There is no screen here: open the address below in a browser.")
    open_lab(
        lab_arguments(chapter, root, has_browser=has_browser, ip=ip, port=port, extra=context.args)
    )


@app.command()
def run(
    numbers: Annotated[
        list[str] | None, typer.Argument(metavar="[NUMBER]...", help="Chapters; all by default.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Write the outputs into the files.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run what has not changed, too.")] = False,
    folder: Annotated[Path | None, typer.Option(help=_FOLDER_HELP)] = None,
) -> None:
    """Execute notebooks in order, each in a fresh kernel.

    A notebook is skipped if its code, the package, the data and the installed versions are those
    of its last green run. A file is only ever replaced as a whole, after its last cell.
    """
    from course_utils.cli.notebooks.files import notebooks_dir, select_notebooks
    from course_utils.cli.notebooks.records import RunRecords, records_path
    from course_utils.cli.notebooks.runs import run_notebooks, tabulate_results

    notebooks = select_notebooks(folder or notebooks_dir(), numbers or ())
    records = RunRecords(records_path())
    try:
        results = run_notebooks(notebooks, records, console, save=save, force=force)
    except KeyboardInterrupt:
        console.print("stopped; every notebook file is whole")
        raise typer.Exit(130) from None
    console.print(tabulate_results(results))
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
