"""What `course run` remembers: which notebooks were green, and on what exactly."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from course_utils.cli.notebooks.files import code_cells, read_notebook
from course_utils.files import append_line, sha256, sha256_of
from course_utils.paths import data_dir, package_dir, state_dir
from course_utils.validation import check_count, check_number, check_text

_ENVIRONMENT = ("COURSE_PROFILE", "COURSE_MODEL")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A notebook's last green run.

    Args:
        fingerprint: Of everything the run depended on (see :func:`fingerprint`).
        seconds: Wall time.
        peak_bytes: Peak memory of its kernel.
        saved_sha256: Of the file that the run wrote; None if it wrote none.

    Raises:
        ValueError: If one of them is of another kind.
    """

    fingerprint: str
    seconds: float
    peak_bytes: int
    saved_sha256: str | None

    def __post_init__(self) -> None:
        check_text("fingerprint", self.fingerprint)
        check_number("seconds", self.seconds, at_least=0)
        check_count("peak_bytes", self.peak_bytes, at_least=0)
        check_text("saved_sha256", self.saved_sha256 or "")


class RunRecords:
    """Last green runs, one JSON line each; a line is appended in one step, and the last counts.

    So two runs at the same time lose nothing, and what a killed one left of a line is passed over.

    Args:
        path: The file; a missing or unreadable one counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, RunRecord] = {}
        try:
            lines = path.read_bytes().decode(errors="replace").split("\n")
        except OSError:
            return
        for line in lines:
            try:
                fields = json.loads(line)
                notebook = fields.pop("notebook")
                self._records[notebook] = RunRecord(**fields)
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
                continue

    def find(self, notebook: Path) -> RunRecord | None:
        """Return a notebook's last green run, if there was one."""
        return self._records.get(str(notebook.resolve()))

    def add(self, notebook: Path, record: RunRecord) -> None:
        """Remember a green run, at once and on disk.

        Raises:
            OSError: If the file cannot be written; what it held stands.
        """
        name = str(notebook.resolve())
        self._records[name] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self.path, json.dumps({"notebook": name, **asdict(record)}))


def records_path() -> Path:
    """Return the file that the records are kept in."""
    return state_dir() / "runs.jsonl"


def fingerprint(notebook: Path, surroundings: bytes) -> str:
    """Return a digest of what a notebook's outputs depend on; its prose does not count.

    Args:
        notebook: The file, whose code cells and their tags count.
        surroundings: See :func:`describe_surroundings`.

    Raises:
        ValueError: If the file is not a notebook.
    """
    cells = [[c.source, c.metadata.get("tags", [])] for c in code_cells(read_notebook(notebook))]
    return sha256_of(surroundings + json.dumps(cells).encode())


def describe_surroundings() -> bytes:
    """Describe what every notebook depends on.

    The package's source, the data folder, Python, the installed packages' versions and the
    profile that the environment asks for.
    """
    files = [*package_dir().rglob("*.py"), *(f for f in data_dir().rglob("*") if f.is_file())]
    contents = {str(f): sha256(f) for f in files}
    versions = {d.name: d.version for d in metadata.distributions()}
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    return json.dumps([contents, versions, environment, sys.version], sort_keys=True).encode()
