"""The reader's record of predictions: one JSON line each, on the reader's own machine."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from course_utils import paths
from course_utils.files import append_line
from course_utils.validation import check_count, check_flag, check_list, check_number, check_text

ID_PATTERN = r"\d{2}(-[a-z0-9]+)+"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A prediction that was compared with its result.

    Args:
        id: Chapter number, then a name, as in ``02-rates``.
        question: What was asked.
        options: What there was to choose from; none where a number was asked.
        unit: The number's unit.
        answer: What the reader said: an option, or a number.
        value: What was measured.
        right: Whether the answer counts as right.
        confidence: How sure the reader was, in percent.
        time: When the result was shown, ISO 8601 with its zone.

    Raises:
        ValueError: If one of them is of another kind.
    """

    id: str
    question: str
    options: Sequence[str]
    unit: str
    answer: str | float
    value: str | float
    right: bool
    confidence: int
    time: str

    def __post_init__(self) -> None:
        check_text("id", self.id)
        if not re.fullmatch(ID_PATTERN, self.id, re.ASCII):
            raise ValueError(f"id={self.id!r} must be like '02-rates'")
        check_text("question", self.question)
        check_text("unit", self.unit)
        check_list("options", self.options)
        for option in self.options:
            check_text("option", option)
        for name in ("answer", "value"):
            (check_text if self.options else check_number)(name, getattr(self, name))
        check_flag("right", self.right)
        check_count("confidence", self.confidence, at_most=100)
        datetime.fromisoformat(self.time)


def record_path() -> Path:
    """Return the file that the predictions are kept in."""
    return paths.state_dir() / "predictions.jsonl"


def keep(entry: Entry) -> None:
    """Append an entry to the record, at once and on disk.

    Raises:
        OSError: If it cannot be written; what the file held stands.
    """
    path = record_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    append_line(path, json.dumps(asdict(entry), ensure_ascii=False))


def load_entries() -> list[Entry]:
    """Return the first try at each prediction, in the order of the record.

    Later tries stay in the file and do not count: their reader knew the result. Damaged lines are
    passed over; a missing or unreadable file counts as empty.
    """
    try:
        lines = record_path().read_bytes().decode(errors="replace").split("\n")
    except OSError:
        return []
    entries: dict[str, Entry] = {}
    for line in lines:
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue
        entries.setdefault(entry.id, entry)
    return list(entries.values())
