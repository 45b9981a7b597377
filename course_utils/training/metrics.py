"""A run's metrics: a file of JSON, a line a step."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from course_utils.files import append_line, check_plain, write_text

_LONGEST_LINE_BYTES = 1000


class MetricsFile:
    """Writes what each step measured, and never over a file that is not of the same run.

    A line begins with the run's identity and the step, so that a killed run finds its own lines
    again, the last of them perhaps half written.

    Args:
        path: The file.
        run: The run's identity, in a few characters.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._path, self._run = path, run

    def start(self, history: Mapping[str, Sequence[float]]) -> None:
        """Let the file hold the steps that are behind the run, and no others, in one replacement.

        Raises:
            ValueError: If it holds anything else than metrics of this run.
            OSError: If it cannot be read or written, or its folder is not there.
        """
        if os.path.exists(self._path):
            check_plain(self._path)
            self._check_own()
        n_done = len(next(iter(history.values())))
        steps = ({name: history[name][k] for name in history} for k in range(n_done))
        lines = (self._line(k, values) for k, values in enumerate(steps, start=1))
        write_text(self._path, "".join(f"{line}\n" for line in lines))

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Write what a step measured.

        Raises:
            OSError: If it cannot be written.
        """
        append_line(self._path, self._line(step, values))

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        known = {name: x if math.isfinite(x) else None for name, x in values.items()}
        return json.dumps({"run": self._run, "step": step, **known})

    def _check_own(self) -> None:
        """Check that every line is of this run, step after step.

        Raises:
            ValueError: If one is not.
            OSError: If the file cannot be read.
        """
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise OSError(f"{self._path} cannot be read: {error.strerror}") from error
        with file:
            for step, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE_BYTES), b""), 1):
                start = self._line(step, {})[:-1].encode() + b","
                is_whole = line.startswith(start) and line.endswith(b"}\n")
                # Only the last line can be half of one.
                is_half = line[-1:] != b"\n" and (line.startswith(start) or start.startswith(line))
                if not is_whole and not (is_half and not file.peek(1)):
                    raise ValueError(
                        f"line {step} of {self._path} is none of this run's metrics: choose "
                        "another metrics_file or delete it"
                    )
