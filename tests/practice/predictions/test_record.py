"""The reader's record: what is read back, and what is passed over."""

import json
from dataclasses import asdict, replace

import pytest

from course_utils.practice.predictions.record import Entry, keep, load_entries

ENTRY = Entry(
    id="02-rates",
    question="By what factor?",
    options=[],
    unit="times",
    answer=2.0,
    value=3.3,
    right=True,
    confidence=80,
    time="2026-11-27T12:00:00+00:00",
)


def test_what_is_kept_is_read_back(state_dir):
    assert load_entries() == []
    option = {"options": ["α", "β"], "unit": "", "answer": "α", "value": "β", "right": False}
    entries = [ENTRY, replace(ENTRY, id="03-lines", **option)]
    for entry in entries:
        keep(entry)
    assert load_entries() == entries


def test_the_first_try_counts(state_dir):
    keep(replace(ENTRY, right=False))
    keep(ENTRY)
    assert load_entries() == [replace(ENTRY, right=False)]


DAMAGE = [
    b'{"id": "02-rates", "question"',
    b"\xff\xfe",
    b"[]",
    b"null",
    b"[" * 100_000,
    *(
        json.dumps(asdict(ENTRY) | fields).encode()
        for fields in (
            {"id": "rates"},
            {"options": "ab"},
            {"options": ["a", "b"]},
            {"answer": float("nan")},
            {"right": "yes"},
            {"confidence": 0},
            {"confidence": 101},
            {"time": "yesterday"},
            {"more": 1},
        )
    ),
]


@pytest.mark.parametrize("line", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_line_is_passed_over(state_dir, line):
    state_dir.mkdir()
    (state_dir / "predictions.jsonl").write_bytes(line + b"\n")
    assert load_entries() == []
    keep(ENTRY)
    assert load_entries() == [ENTRY]


def test_a_record_that_cannot_be_read_counts_as_empty(state_dir):
    (state_dir / "predictions.jsonl").mkdir(parents=True)
    assert load_entries() == []
