"""``course run``: execute notebooks."""

from typing import Annotated

import typer

from course_utils.cli.console import Folder, console


def run(
    numbers: Annotated[
        list[str] | None, typer.Argument(metavar="[NUMBER]...", help="Chapters; all by default.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Write the outputs into the files.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run what has not changed, too.")] = False,
    folder: Folder = None,
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
