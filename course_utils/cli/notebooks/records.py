"""What `course run` remembers: which notebooks were green, and on what exactly."""

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from course_utils.cli.notebooks.files import code_cells, read_notebook
from course_utils.paths import checkout_dir, data_dir, package_dir

_ENVIRONMENT = ("COURSE_PROFILE", "COURSE_MODEL")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A notebook's last green run.

    Args:
        fingerprint: Of everything the run depended on (see :func:`fingerprint`).
        seconds: Wall time.
        peak_bytes: Peak memory of its kernel.
        saved_sha256: Of the file that the run wrote; None if it wrote none.
    """

    fingerprint: str
    seconds: float
    peak_bytes: int
    saved_sha256: str | None


class RunRecords:
    """Last green runs, kept in one JSON file.

    Args:
        path: The file; a missing or unreadable one counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = _read(path)

    def find(self, notebook: Path) -> RunRecord | None:
        """Return a notebook's last green run, if there was one."""
        return self._records.get(str(notebook.resolve()))

    def add(self, notebook: Path, record: RunRecord) -> None:
        """Remember a green run, at once and on disk.

        Raises:
            OSError: If the file cannot be written; the old one stands.
        """
        self._records[str(notebook.resolve())] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            text = json.dumps({k: asdict(v) for k, v in self._records.items()}, indent=1)
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, RunRecord]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {notebook: RunRecord(**fields) for notebook, fields in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def records_path() -> Path:
    """Return where the records are kept.

    ``COURSE_STATE_DIR`` if set, ``.course/`` in a checkout, else the user's cache folder.
    """
    chosen = os.environ.get("COURSE_STATE_DIR")
    if chosen:
        return Path(chosen) / "runs.json"
    checkout = checkout_dir()
    if checkout:
        return checkout / ".course" / "runs.json"
    import platformdirs

    return platformdirs.user_cache_path("course-utils") / "runs.json"


def fingerprint(notebook: Path, surroundings: bytes) -> str:
    """Return a digest of what a notebook's outputs depend on; its prose does not count.

    Args:
        notebook: The file, whose code cells and their tags count.
        surroundings: See :func:`describe_surroundings`.

    Raises:
        ValueError: If the file is not a notebook.
    """
    digest = hashlib.sha256(surroundings)
    for cell in code_cells(read_notebook(notebook)):
        digest.update(json.dumps([cell.source, cell.metadata.get("tags", [])]).encode())
    return digest.hexdigest()


def describe_surroundings() -> bytes:
    """Describe what every notebook depends on.

    The package's source, the data folder, Python, the installed packages' versions and the
    profile that the environment asks for.
    """
    files = [*package_dir().rglob("*.py"), *(f for f in data_dir().rglob("*") if f.is_file())]
    contents = {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    versions = {d.name: d.version for d in metadata.distributions()}
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    return json.dumps([contents, versions, environment, sys.version], sort_keys=True).encode()
