"""Files that are there whole or not at all; checksums; and one writer at a time.

What is written goes to a temporary name beside its place, is flushed to the disk and then takes the
place in one step. A program that is killed leaves the old file or the new one, and at the most a
temporary one, which carries its process's number and is swept away by the next.
"""

import errno
import hashlib
import itertools
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# Of a name that is longer, the temporary one has a checksum instead: 255 bytes is what names have.
_LONGEST_NAME_BYTES = 200
_numbers = itertools.count()
_in_use: set[Path] = set()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        OSError: If it cannot be read, or is no plain file: a pipe or a device may never end.
    """
    check_plain(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(data: bytes | str) -> str:
    """Return the SHA-256 of bytes, or of a text as UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def check_plain(path: Path) -> None:
    """Refuse what is no plain file, or a link to one, without opening it.

    Raises:
        OSError: If it is a folder, pipe, socket or device, or is not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is a folder, pipe, socket or device: it must be a plain file")


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8: the file is at any moment wholly the old one or the new one.

    Raises:
        OSError: If it cannot be written, for instance on a full disk; the old file stands.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes so that the file is at any moment wholly the old one or the new one.

    Raises:
        OSError: If it cannot be written, for instance on a full disk; the old file stands.
    """
    with replacement_of(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacement_of(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; afterwards it takes the place of ``path``, in one step.

    A link stays one, and what it leads to is replaced.

    Raises:
        OSError: If it cannot be written, or something else than a file is in its place; the old
            file stands.
    """
    place = Path(os.path.realpath(path))
    with _temporary(place) as temporary, _named(path):
        if place.exists():
            check_plain(path)
        yield temporary
        _flush(temporary)
        os.replace(temporary, place)
        _flush(place.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; afterwards it takes the place of ``path``, in one step.

    An earlier folder of that name goes in the same step, where the system can swap two.

    Raises:
        OSError: If it cannot be written; what was there before stands.
    """
    place = Path(os.path.realpath(path))
    with _temporary(place) as temporary, _named(path):
        temporary.mkdir(parents=True)
        yield temporary
        for inside in temporary.rglob("*"):
            _flush(inside)
        _flush(temporary)
        if not place.is_dir():
            os.replace(temporary, place)
        elif not _swap(temporary, place):
            with _temporary(place) as old:
                os.replace(place, old)
                os.replace(temporary, place)
        _flush(place.parent)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write bytes to as they come; for one inside of a folder that is new itself.

    Raises:
        OSError: If it cannot be written.
    """
    with path.open("wb") as file:
        yield file


def append_line(path: Path, line: str) -> None:
    """Append one line to a file, flushed to the disk before the call returns.

    Half a line that a killed program left stays one of its own.

    Raises:
        OSError: If it cannot be written.
    """
    with _named(path), path.open("ab+", buffering=0) as file:
        start = ""
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            start = "" if file.read(1) == b"\n" else "\n"
        data = memoryview(f"{start}{line}\n".encode())
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())


def sweep(path: Path) -> None:
    """Remove what killed processes left of ``path``: temporary files whose process is no more."""
    pattern = re.compile(rf"\.{re.escape(_stem(path))}\.(\d{{1,9}})(-\d+)?\.tmp", re.ASCII)
    with suppress(OSError):
        for other in path.parent.iterdir():
            match = pattern.fullmatch(other.name)
            if match and other not in _in_use and not _is_at_work(int(match[1])):
                _remove(other)


@contextmanager
def only_writer(folder: Path, what: str, *, patience_seconds: float = 0) -> Iterator[None]:
    """Hold a folder for one process until the block ends.

    The lock is the operating system's: it goes with the process, however that ends. Where the file
    system has no locks, there is none.

    Args:
        folder: Folder to hold; made if missing.
        what: What is done in it, for the message.
        patience_seconds: How long to wait for another process.

    Raises:
        FileExistsError: If another process holds it for longer than that.
        OSError: If the folder cannot be read or written to, or is none.
    """
    from filelock import FileLock, Timeout

    with _named(folder, "cannot be used"):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} cannot be used: it is no folder")
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=patience_seconds)
        try:
            with suppress(NotImplementedError):
                lock.acquire()
        except (Timeout, RuntimeError) as error:
            raise FileExistsError(
                f"another process is at {what} in {folder}: wait for it, or choose another folder"
            ) from error
    try:
        with _named(folder, "cannot be used"), _temporary(folder / "probe") as probe:
            os.listdir(folder)
            probe.touch()
        yield
    finally:
        lock.release()


@contextmanager
def _named(path: Path, what: str = "was not written") -> Iterator[None]:
    """Let an error of the operating system name the file that was meant, in one sentence."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # it is told already
            raise
        is_full = error.errno == errno.ENOSPC
        reason = "the disk is full" if is_full else error.strerror or str(error)
        told = type(OSError(error.errno, reason))(f"{path} {what}: {reason}")
        told.errno = error.errno
        raise told from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` that nothing has; what is there afterwards is removed."""
    sweep(path)
    temporary = path.with_name(f".{_stem(path)}.{os.getpid()}-{next(_numbers)}.tmp")
    _in_use.add(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _in_use.discard(temporary)


def _stem(path: Path) -> str:
    name = path.name
    return name if len(os.fsencode(name)) <= _LONGEST_NAME_BYTES else sha256_of(name)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _swap(first: Path, second: Path) -> bool:
    """Let two folders change places in one step, and say whether the system could."""
    import ctypes

    names, here, exchange = (os.fsencode(first), os.fsencode(second)), -100, 2
    with suppress(AttributeError, OSError, TypeError):
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(*names, exchange) == 0
        return ctypes.CDLL(None).renameat2(here, names[0], here, names[1], exchange) == 0
    return False


def _flush(path: Path) -> None:
    """Flush a file to the disk, or a folder's own entries, where the system can."""
    if os.name == "nt":
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_at_work(process: int) -> bool:
    """Say whether another process of that number runs; what this one has in use, it knows."""
    import psutil

    return process != os.getpid() and psutil.pid_exists(process)
