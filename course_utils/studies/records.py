"""The record of a study: one run a line, taken up again after whatever ended the program."""

import json
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from course_utils.files import append_line, only_writer, write_text

Row = dict[str, Any]
Key = tuple[Any, ...]
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")


class Records:
    """The runs in a file of JSON lines, whose first line says how they were made.

    A run is appended in one step, so that two processes may share a file. What a killed program or
    a power failure left of a line counts as not there: that run is made again.

    Args:
        path: The file; it need not exist.
        key: Names of the entries that tell one run from another.
    """

    def __init__(self, path: Path, key: tuple[str, ...]) -> None:
        self.path, self.key = path, key
        self._runs: dict[Key, Row] = {}
        self.read()

    @property
    def rows(self) -> list[Row]:
        """All runs, in the order in which they were made."""
        return list(self._runs.values())

    def read(self) -> None:
        """Look for runs in the file that are not known yet."""
        for row in map(_parsed, _lines(self.path)):
            if set(self.key) <= set(row):
                self._runs.setdefault(self._key_of(row), row)

    def take_up(self, first: Row) -> None:
        """Prepare the file for more runs.

        Args:
            first: What its first line says, if that is missing or damaged; see :func:`header`.

        Raises:
            OSError: If the file cannot be written, or another process is mending it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists() or not self.path.stat().st_size:
            append_line(self.path, json.dumps(first))
        elif not _has_header(self.path):
            with only_writer(self.path.parent, f"mending {self.path.name}"):
                if not _has_header(self.path):
                    self.read()
                    text = "".join(f"{json.dumps(row)}\n" for row in (first, *self.rows))
                    write_text(self.path, text)

    def once(
        self, key: Key, make: Callable[[], Row], on_run: Callable[[Row], None] | None = None
    ) -> Row:
        """Return a run; if no process has made it yet, make it and record it.

        Args:
            key: Values of the entries that ``self.key`` names.
            make: Makes the run.
            on_run: Called with a run that was made.

        Raises:
            OSError: If it cannot be recorded.
        """
        if key not in self._runs:
            self.read()
        if key not in self._runs:
            row = make()
            self.read()
            if key not in self._runs:
                append_line(self.path, json.dumps(row))
                self._runs[key] = row
                if on_run:
                    on_run(row)
        return self._runs[key]

    def _key_of(self, row: Row) -> Key:
        return tuple(row[name] for name in self.key)


def header(name: str, seeds: Sequence[int], *, command: str, device: str = "cpu") -> Row:
    """Return the first line of a study's file: how its runs were made.

    Args:
        name: Name of the study.
        seeds: Its seeds.
        command: What runs it.
        device: Where its runs happen, ``cpu`` or ``cuda``.
    """
    return {
        "study": name,
        "command": command,
        "seeds": seeds,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {package: version(package) for package in _PACKAGES},
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
    }


def _lines(path: Path) -> list[str]:
    """Return the lines of a file, without the NUL bytes that a power failure leaves behind."""
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    return [line.strip("\0 \t\r") for line in text.split("\n")]


def _parsed(line: str) -> Row:
    """Return what a line says; nothing if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _has_header(path: Path) -> bool:
    return "study" in _parsed(_lines(path)[0])
