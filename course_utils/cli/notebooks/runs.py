"""Run notebooks one after another, show how far they are, and report what each one took."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from course_utils.cli.notebooks.execution import CellError, Execution, execute_notebook
from course_utils.cli.notebooks.files import strip_volatile, tagged_pictures, write_notebook
from course_utils.cli.notebooks.records import (
    RunRecord,
    RunRecords,
    describe_surroundings,
    fingerprint,
)
from course_utils.files import sha256, write_bytes

if TYPE_CHECKING:
    from nbformat import NotebookNode

_OUTCOME_STYLES = {"green": "green", "unchanged": "dim", "failed": "bold red"}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What became of one notebook.

    Args:
        notebook: Its file.
        outcome: ``green``, ``failed``, or ``unchanged`` since its last green run and not run again.
        seconds: Wall time, of the last green run if unchanged; None if it failed.
        peak_bytes: Peak memory of its kernel, alike.
    """

    notebook: Path
    outcome: Literal["green", "unchanged", "failed"]
    seconds: float | None = None
    peak_bytes: int | None = None


def run_notebooks(
    notebooks: Iterable[Path],
    records: RunRecords,
    console: Console,
    *,
    save: bool = False,
    force: bool = False,
) -> list[RunResult]:
    """Run notebooks in order, each in a fresh kernel; one that fails does not stop the others.

    Args:
        notebooks: Files to run.
        records: Earlier green runs; the new ones are added.
        console: Where the progress and the tracebacks are shown.
        save: Write each green notebook's outputs into its file.
        force: Run what is unchanged, too.

    Raises:
        OSError: If a notebook or the records cannot be written; the old files stand.
        ValueError: If a file is not a notebook.
    """
    surroundings = describe_surroundings()
    return [
        _run_notebook(
            notebook, fingerprint(notebook, surroundings), records, console, save=save, force=force
        )
        for notebook in notebooks
    ]


def _run_notebook(
    notebook: Path, key: str, records: RunRecords, console: Console, *, save: bool, force: bool
) -> RunResult:
    last = records.find(notebook)
    if last and not force and _is_current(last, key, notebook, is_saved=save):
        return RunResult(
            notebook=notebook, outcome="unchanged", seconds=last.seconds, peak_bytes=last.peak_bytes
        )
    execution = _execute(notebook, console)
    if execution is None:
        return RunResult(notebook=notebook, outcome="failed")
    saved_sha256 = last.saved_sha256 if last and last.fingerprint == key else None
    if save:
        write_notebook(notebook, strip_volatile(execution.node))
        _refresh_pictures(execution.node, notebook.parent.parent / "docs")
        saved_sha256 = sha256(notebook)
    measured = {"seconds": execution.seconds, "peak_bytes": execution.peak_bytes}
    records.add(notebook, RunRecord(fingerprint=key, saved_sha256=saved_sha256, **measured))
    return RunResult(notebook=notebook, outcome="green", **measured)


def _refresh_pictures(node: "NotebookNode", docs: Path) -> None:
    """Write the pictures that README shows anew, where there is a folder for them."""
    if docs.is_dir():
        for name, png in tagged_pictures(node).items():
            write_bytes(docs / f"{name}.png", png)


def _is_current(last: RunRecord, key: str, notebook: Path, *, is_saved: bool) -> bool:
    has_outputs = not is_saved or last.saved_sha256 == sha256(notebook)
    return last.fingerprint == key and has_outputs


def _execute(notebook: Path, console: Console) -> Execution | None:
    """Execute a notebook under a progress display; if it fails show why and return None."""
    try:
        with _show_progress(notebook.stem, console) as on_cell:
            return execute_notebook(notebook, on_cell=on_cell)
    except CellError as error:
        console.print(Text(f"{notebook.name}: {error}", style="bold red"), soft_wrap=True)
        console.print(Syntax(error.source, "python", background_color="default", line_numbers=True))
        console.print(Text.from_ansi(error.traceback), soft_wrap=True)
    except RuntimeError as error:
        console.print(Text(f"{notebook.name}: {error}", style="bold red"), soft_wrap=True)
    return None


@contextmanager
def _show_progress(title: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for each cell; a terminal gets a bar, a log file a line."""
    if not console.is_terminal:
        console.print(Text(f"{title}: running"))
        yield lambda cell, n_cells: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting its kernel", total=None)

        def on_cell(cell: int, n_cells: int) -> None:
            progress.update(
                task, completed=cell - 1, total=n_cells, description=f"cell {cell} of {n_cells}"
            )

        yield on_cell


def tabulate_results(results: Sequence[RunResult]) -> Table:
    """Return the results as a table: outcome, seconds and peak memory of each notebook."""
    table = Table("notebook", "outcome")
    table.add_column("seconds", justify="right")
    table.add_column("peak memory", justify="right")
    for result in results:
        outcome = Text(result.outcome, style=_OUTCOME_STYLES[result.outcome])
        seconds = "" if result.seconds is None else f"{result.seconds:.1f}"
        peak = "" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:,.0f} MiB"
        table.add_row(result.notebook.stem, outcome, seconds, peak)
    if len(results) > 1:
        table.add_section()
        total_seconds = sum(r.seconds or 0 for r in results if r.outcome == "green")
        largest_bytes = max(r.peak_bytes or 0 for r in results)
        table.add_row("in all", "", f"{total_seconds:.1f}", f"{largest_bytes / 2**20:,.0f} MiB")
    return table
