"""Numbers that prose quotes from a record, and whether the record still says so.

A text cell of a notebook lists, in its metadata under ``quotes``, what it quotes. Each quote says
where the number comes from and how it is written; the check computes it from the record and looks
for it in the text (``python -m course_utils.studies check``). So a record that changes finds every
sentence that must change with it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from course_utils.intervals import interval, paired_difference, verdict
from course_utils.studies.records import Row
from course_utils.studies.runner import load_results
from course_utils.studies.tuning import best_runs, tried_rates
from course_utils.validation import check_choice

STATISTICS = ("mean", "low", "high", "least", "most", "rate", "n_rates", "ahead", "verdict")


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A number of a record, as prose has it.

    Args:
        study: Name of the record.
        task: Name of the task.
        method: Name of the method, at its chosen learning rate.
        of: What of its runs: ``mean`` over the seeds, the ``low`` and the ``high`` end of its 95 %
            interval, the ``least`` and the ``most`` of a seed, the chosen ``rate``, how many rates
            were tried (``n_rates``), by how much it is ``ahead`` of another, or the ``verdict``.
        what: Which entry of a run.
        n_examples: Size of the training set; None for all of it.
        against: The other method.
        against_study: Its record; the same by default.
        margin: Largest difference that does not matter, for the verdict.
        form: How the number is written; a minus may be ``-`` or the typographer's, and a space may
            stand before ``%``.
    """

    study: str
    task: str
    method: str
    of: str = "mean"
    what: str = "test"
    n_examples: int | None = None
    against: str = ""
    against_study: str = ""
    margin: float | None = None
    form: str = "{:.2f}"

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            ValueError: If there is no such statistic, or a comparison lacks its other half.
        """
        check_choice("of", self.of, STATISTICS)
        if (self.of in ("ahead", "verdict")) != bool(self.against):
            raise ValueError(
                f"of={self.of!r} and against={self.against!r}: neither or both compare"
            )

    @property
    def text(self) -> str:
        """The number as prose should have it, with the typographer's minus.

        Raises:
            FileNotFoundError: If the study was not recorded.
            ValueError: If it has no such runs.
        """
        value = self._value()
        return value if isinstance(value, str) else _typeset(self.form.format(value))

    def _value(self) -> float | str:
        runs = self._runs(self.study, self.method)
        values = [run[self.what] for run in runs]
        match self.of:
            case "mean":
                return fmean(values)
            case "low" | "high":
                return interval(values)[1 if self.of == "low" else 2]
            case "least" | "most":
                return (min if self.of == "least" else max)(values)
            case "rate":
                return runs[0]["learning_rate"]
            case "n_rates":
                rows, size = load_results(self.study), self.n_examples
                return len(tried_rates(rows, self.task, self.method, n_examples=size))
        others = self._runs(self.against_study or self.study, self.against)
        pairs = [{run["seed"]: run[self.what] for run in some} for some in (runs, others)]
        common = sorted(set.intersection(*map(set, pairs)))
        difference = paired_difference(*([some[seed] for seed in common] for some in pairs))
        is_number = self.of == "ahead"
        return difference.mean if is_number else verdict(difference, margin=self.margin)

    def _runs(self, study: str, method: str) -> list[Row]:
        runs = best_runs(load_results(study), self.task, method, n_examples=self.n_examples)
        if not runs:
            raise ValueError(f"{study} has no runs of {method} on {self.task}")
        return runs


def quotes_of(cell: dict[str, Any]) -> list[Quote]:
    """Return what a cell says that it quotes.

    Raises:
        ValueError: If an entry is none of a quote's.
    """
    known = {field.name for field in fields(Quote)}
    found = []
    for entry in cell["metadata"].get("quotes", []):
        if unknown := set(entry) - known:
            raise ValueError(f"a quote has no {', '.join(sorted(unknown))}: only {sorted(known)}")
        found.append(Quote(**entry))
    return found


def drifted(paths: Sequence[Path]) -> Iterator[str]:
    """Yield a line for each quote whose number the text around it does not have.

    Args:
        paths: Notebooks.
    """
    for path in paths:
        for place, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            prose = _typeset("".join(cell["source"]))
            for quote in quotes_of(cell):
                if not _has(prose, quote.text):
                    yield (
                        f"{path.name}, cell {place}: {quote.of} of {quote.what}, {quote.method} in "
                        f"{quote.study}, is {quote.text}; the text does not say so"
                    )


def n_quotes(paths: Sequence[Path]) -> int:
    """Count the quotes of notebooks."""
    cells = (cell for p in paths for cell in json.loads(p.read_text(encoding="utf-8"))["cells"])
    return sum(len(quotes_of(cell)) for cell in cells)


def _typeset(text: str) -> str:
    """Write minus signs and percentages as the chapters do."""
    return re.sub(r"(?<=\d)%", " %", re.sub(r"(?<![\w−-])-(?=\d)", "−", text))


def _has(prose: str, text: str) -> bool:
    """Say whether a text has a number by itself, not as a part of another."""
    return re.search(rf"(?<![\w.−]){re.escape(text)}(?!\w|[.,]\d)", prose) is not None
