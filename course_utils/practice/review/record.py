"""The reader's record of answers: one SQLite file, on the reader's own machine.

It holds the answers and nothing that follows from them: what is remembered and what is due is
computed from the answers each time, so that nothing can disagree. An answer is one row, written in
one step and flushed to the disk; a program that is killed has written all of it or nothing.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from course_utils import paths
from course_utils.files import only_writer, replacement_of, write_bytes
from course_utils.validation import check_flag, check_text, shown

VERSION = 1
"""Version of the file's tables; a file of a later one is left alone."""

_APPLICATION = 0x436F7572  # "Cour", in the file's header
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY,
    question TEXT NOT NULL,
    is_right INTEGER NOT NULL CHECK (is_right IN (0, 1)),
    time TEXT NOT NULL
) STRICT
"""
_DAMAGES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PATIENCE_SECONDS = 20.0
_Result = TypeVar("_Result")
_Row = tuple[int, str, int, str]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer to a question of the bank.

    Args:
        question: The question's id.
        is_right: Whether it was right.
        time: When it was given, by the machine's clock; with its zone.

    Raises:
        ValueError: If one of them is of another kind, or the time has no zone.
    """

    question: str
    is_right: bool
    time: datetime

    def __post_init__(self) -> None:
        check_text("question", self.question)
        check_flag("is_right", self.is_right)
        if not isinstance(self.time, datetime) or self.time.utcoffset() is None:
            raise ValueError(f"time={shown(self.time)} must be a time with its zone")


class DamagedError(Exception):
    """The file is no database, or one with broken pages."""


class Record:
    """The answers of one reader, in the order in which they were given.

    Several programs may write to it at once. A damaged file is put aside when it is met, and a new
    one is begun with what could be read of it.

    Args:
        path: The file, made with the first answer; :func:`record_path` by default.

    Attributes:
        notice: What the reader should be told: that a damaged file was put aside, and under which
            name. Empty where all is well.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = record_path() if path is None else Path(path)
        self.notice = ""

    def add(self, answer: Answer) -> None:
        """Write one answer; it is on the disk when the call returns.

        Raises:
            OSError: If it cannot be written.
            ValueError: If the file is of a newer version of the course, or another program's.
        """
        time = answer.time.astimezone(UTC).isoformat(timespec="milliseconds")
        row = (answer.question, int(answer.is_right), time)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._run(
            lambda db: db.execute(
                "INSERT INTO answers (question, is_right, time) VALUES (?, ?, ?)", row
            )
        )

    def answers(self) -> list[Answer]:
        """Return all answers that can be read; none where there is no file.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file is of a newer version of the course, or another program's.
        """
        if not self.path.exists():
            return []
        rows = self._run(lambda db: db.execute("SELECT * FROM answers ORDER BY number").fetchall())
        return list(_answers_in(rows))

    def forget(self) -> int:
        """Remove all answers and return how many there were.

        Raises:
            OSError: If the file cannot be written.
            ValueError: If the file is of a newer version of the course, or another program's.
        """
        if not self.path.exists():
            return 0
        return self._run(lambda db: db.execute("DELETE FROM answers").rowcount)

    def _run(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        try:
            try:
                return _run(self.path, work)
            except DamagedError:
                self._mend()
                return _run(self.path, work)
        except (sqlite3.Error, DamagedError) as error:
            raise OSError(f"{self.path} cannot be used: {error}") from error

    def _mend(self) -> None:
        """Copy a damaged file aside and put one with its readable answers in its place."""
        with only_writer(self.path.parent, "mending it", patience_seconds=_PATIENCE_SECONDS):
            with suppress(DamagedError):
                _run(self.path, lambda _: None)
                return  # another program was faster
            aside = _free_name(self.path)
            for place, copy in zip(_files_of(self.path), _files_of(aside), strict=True):
                if place.exists():
                    write_bytes(copy, place.read_bytes())
            rows = _readable_rows(aside)
            with replacement_of(self.path) as temporary:
                _run(temporary, lambda db: _insert(db, rows))
                # What is pending for the old file must not be taken for the new one's.
                for suffix in ("-wal", "-shm"):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self.notice = (
            f"{self.path} was damaged: it is now {aside.name}, and a new one was begun with the "
            f"{len(rows)} answers that could be read"
        )


def record_path() -> Path:
    """Return the file that the answers are kept in."""
    return paths.state_dir() / "answers.sqlite"


def keep_answer(question: str, is_right: bool) -> str:
    """Write an answer of now to the reader's record: for the notebook and the terminal alike.

    Args:
        question: The question's id.
        is_right: Whether it was right.

    Returns:
        A sentence for the reader where something is to be said: the answer could not be kept, or
        a damaged record was put aside. Else an empty text.
    """
    record = Record()
    try:
        record.add(Answer(question=question, is_right=is_right, time=datetime.now(UTC)))
    except (OSError, ValueError) as error:
        return f"Your answer could not be kept: {error}."
    return f"{record.notice}." if record.notice else ""


def _run(path: Path, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
    """Do something with the file once it was looked at."""
    with _damage_told(), _connected(path) as db:
        _prepare(db, path)
        return work(db)


@contextmanager
def _connected(path: Path, mode: str = "rwc") -> Iterator[sqlite3.Connection]:
    """Open a file in which each statement is a step of its own.

    In a folder that is closed to writers, SQLite could not make the files that it wants beside it.
    """
    how = f"mode={mode}" if paths.is_writable(path.parent) else "immutable=1"
    place = f"{path.resolve().as_uri()}?{how}"
    settings = {"timeout": _PATIENCE_SECONDS, "isolation_level": None, "uri": True}
    with closing(sqlite3.connect(place, **settings)) as db:
        db.text_factory = lambda text: text.decode(errors="replace")
        yield db


@contextmanager
def _damage_told() -> Iterator[None]:
    """Tell damage from what else can go wrong, as a full disk or a lock."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGES:
            raise DamagedError(str(error)) from error
        raise


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not ours, make the table in a new file, and look for damage."""
    # The version stands in the header: it is read before tables that may be of another kind.
    version = _pragma(db, "user_version")
    if version > VERSION:
        raise ValueError(
            f"{path} was written by a newer version of the course (its tables are of version "
            f"{version}, here it is {VERSION}): update the course, or set COURSE_STATE_DIR"
        )
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master")]
    if tables and _pragma(db, "application_id") != _APPLICATION:
        raise ValueError(f"{path} is another program's: move it away, or set COURSE_STATE_DIR")
    db.execute("PRAGMA synchronous=FULL")
    if not tables:
        with db:
            db.execute("BEGIN IMMEDIATE")
            db.execute(_TABLE)
            db.execute(f"PRAGMA application_id={_APPLICATION}")
            db.execute(f"PRAGMA user_version={VERSION}")
    elif "answers" not in tables or (fault := _pragma(db, "quick_check(1)")) != "ok":
        raise DamagedError("its table is missing" if "answers" not in tables else fault)
    with suppress(sqlite3.OperationalError):  # another program is at it
        db.execute("PRAGMA journal_mode=WAL")


def _pragma(db: sqlite3.Connection, name: str) -> int | str:
    return db.execute(f"PRAGMA {name}").fetchone()[0]


def _insert(db: sqlite3.Connection, rows: Iterable[_Row]) -> None:
    with db:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO answers VALUES (?, ?, ?, ?)", rows)


def _answers_in(rows: Iterable[_Row]) -> Iterator[Answer]:
    """Yield the answers of rows; what a row holds that is no answer is passed over."""
    for _, question, is_right, time in rows:
        with suppress(ValueError, TypeError):
            moment = datetime.fromisoformat(time)
            yield Answer(question=question, is_right=bool(is_right), time=moment)


def _readable_rows(path: Path) -> list[_Row]:
    """Return what can be read of a damaged file: from its begin and from its end to the damage."""
    found: dict[int, _Row] = {}
    with suppress(sqlite3.Error), _connected(path, "ro") as db:
        for order in ("ASC", "DESC"):
            with suppress(sqlite3.Error):
                for row in db.execute(f"SELECT * FROM answers ORDER BY number {order}"):
                    if len(row) == 4 and isinstance(row[0], int) and list(_answers_in([row])):
                        found[row[0]] = row
    return [found[number] for number in sorted(found)]


def _free_name(path: Path) -> Path:
    """Return a name beside a file that nothing has."""
    number = 1
    while (free := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    return free


def _files_of(path: Path) -> tuple[Path, Path]:
    """Return a database and what is pending for it."""
    return path, Path(f"{path}-wal")
