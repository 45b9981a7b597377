"""A study as a table, and which methods it tells apart."""

from collections.abc import Sequence
from itertools import combinations
from math import isfinite
from statistics import fmean, stdev

from course_utils.intervals import UNDECIDED, paired_difference, verdict
from course_utils.studies.candidates import CANDIDATES
from course_utils.studies.runner import ALL_TASKS
from course_utils.studies.tasks import Row
from course_utils.studies.tuning import best_rate, best_runs, tried_rates


def largest_distinct_set(scores: dict[str, list[float]]) -> list[str]:
    """Return a largest set of methods of which every two can be told apart, worst first.

    Each pair is judged by itself, at 5 %: what it says is how far a task spreads methods out, and
    of many pairs one in twenty may differ by chance.

    Args:
        scores: For each method one score a seed, the same seeds for all.
    """
    names = sorted(scores, key=lambda name: fmean(scores[name]))
    pairs = list(combinations(names, 2))
    found = {pair: verdict(paired_difference(*(scores[n] for n in pair))) for pair in pairs}
    for size in range(len(names), 1, -1):
        for some in combinations(names, size):
            if all(found[pair] != UNDECIDED for pair in combinations(some, 2)):
                return list(some)
    return names[:1]


def markdown_table(rows: Sequence[Row], split: str, *, n_examples: int | None = None) -> str:
    """Return a study as a Markdown table: mean and standard deviation over seeds."""
    tasks = [name for name in ALL_TASKS if any(row["task"] == name for row in rows)]
    lines = ["| method | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    recorded = {row["method"] for row in rows}
    for method in ("base", *(name for name in CANDIDATES if name in recorded)):
        cells = []
        for task in tasks:
            size = None if method == "base" else n_examples
            values = [run[split] for run in best_runs(rows, task, method, n_examples=size)]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.3f}{spread}" if values else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rate_rows(rows: Sequence[Row], task: str, methods: Sequence[str]) -> list[Row]:
    """Return how each method's learning rate was found, for ``show.table``.

    Args:
        rows: A study's runs.
        task: Name of a task.
        methods: Names of methods.

    Returns:
        For each method every rate that was tried, with its mean score on validation data; the best
        is marked.
    """
    tried = {method: tried_rates(rows, task, method) for method in methods}
    rates = sorted({rate for scores in tried.values() for rate in scores})
    return [
        {"method": method} | {f"{rate:g}": _marked(scores, rate) for rate in rates}
        for method, scores in tried.items()
    ]


def _marked(scores: dict[float, float], rate: float) -> str:
    if rate not in scores:
        return ""
    mark = " *" if rate == best_rate(scores) else ""
    return f"{scores[rate]:.2f}{mark}" if isfinite(scores[rate]) else "diverged"
