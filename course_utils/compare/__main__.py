"""Fit every task with every method and print the tables."""

from pathlib import Path
from typing import Annotated

import typer

from course_utils.compare.candidates import CANDIDATES
from course_utils.compare.study import best_runs, compare
from course_utils.compare.tables import largest_distinct_set, markdown_table
from course_utils.compare.tasks import TASKS
from course_utils.paths import data_dir


def main(
    task: Annotated[list[str] | None, typer.Option(help="Task to fit; all by default.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Method to fit; all by default.")] = None,
    results: Annotated[Path | None, typer.Option(help="JSONL file of the runs.")] = None,
) -> None:
    """Fit every task with every method over three seeds and print the tables."""
    path = results or data_dir() / "results" / "separation.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = compare(task or list(TASKS), method or list(CANDIDATES), path)
    for split in ("test", "test_unseen"):
        typer.echo(f"\n{split}\n{markdown_table(rows, split)}")
    for name in task or TASKS:
        scores = {m: [r["test"] for r in best_runs(rows, name, m)] for m in CANDIDATES}
        distinct = largest_distinct_set({m: v for m, v in scores.items() if len(v) > 1})
        typer.echo(f"{name}: told apart by two standard errors: {', '.join(distinct)}")


if __name__ == "__main__":
    typer.run(main)
