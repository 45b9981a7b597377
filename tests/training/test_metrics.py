"""metrics_file: what is there is lost to nobody, and it says what the run's checkpoints say."""

import json
import os
from pathlib import Path

import pytest

from course_utils.training import RunResult
from tests.training.runs import whole_run


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def start(folder: Path) -> tuple[Path, RunResult]:
    """A whole run, and another that was stopped after four steps; the latter's metrics."""
    for name in ("whole", "part"):
        (folder / name).mkdir()
    expected = whole_run(folder / "whole")
    whole_run(folder / "part", stop_at=4)
    return folder / "part" / "metrics.jsonl", expected


CUTS = {
    "as it was": lambda data: data,
    "half a line": lambda data: data[:-20],
    "the start of a line": lambda data: data + data[:9],
    "all but the end of a line": lambda data: data[:-1],
    "fewer lines than the checkpoint has": lambda data: data[: data.index(b"\n") + 1],
    "nothing": lambda data: b"",
}


@pytest.mark.parametrize("what", CUTS)
def test_a_killed_run_finds_its_own_lines(what: str, tmp_path: Path):
    metrics, expected = start(tmp_path)
    assert len(lines_of(metrics)) == 4
    metrics.write_bytes(CUTS[what](metrics.read_bytes()))
    whole_run(tmp_path / "part")
    assert metrics.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [line["loss"] for line in lines_of(metrics)] == expected.losses
    assert [line["step"] for line in lines_of(metrics)] == [1, 2, 3, 4, 5]
    assert lines_of(metrics)[-1]["tokens"] == expected.tokens


OTHERS = {
    "notes": b"my notes\n",
    "notes without an end": b"my notes",
    "not UTF-8": b"\xff\n",
    "metrics of others": b'{"step": 1, "loss": 2.0}\n',
    "half a line of another's": b'{"run": "0123456789abcdef", "step": 1, "lo',
    "an empty line": b"\n",
    "NULs": b"\0" * 1000,
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_that_is_not_the_run_s_is_left_alone(what: str, tmp_path: Path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(OTHERS[what])
    with pytest.raises(ValueError, match=r"line 1 of .* is none of this run's metrics: choose"):
        whole_run(tmp_path)
    assert metrics.read_bytes() == OTHERS[what]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_neither_are_lines_among_the_run_s(place: int, tmp_path: Path):
    metrics, _ = start(tmp_path)
    lines = metrics.read_bytes().splitlines(keepends=True)
    lines.insert(place, b"a note\n")
    metrics.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=f"line {place + 1} of"):
        whole_run(tmp_path / "part")
    assert metrics.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "no folder"])
def test_what_is_no_file_is_refused_before_training(kind: str, tmp_path: Path):
    metrics = tmp_path / "metrics.jsonl"
    if kind == "pipe":
        os.mkfifo(metrics)
    elif kind == "folder":
        metrics.mkdir()
    elif kind == "device":
        metrics.symlink_to("/dev/null")
    else:
        metrics = tmp_path / "none" / "metrics.jsonl"
    with pytest.raises(OSError, match=r"must be a plain file|was not written") as caught:
        whole_run(tmp_path, metrics_file=metrics)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.glob("checkpoints/step-*"))
