"""Files that are there whole or not at all; checksums; and one writer at a time.

What is written goes to a temporary name beside its place, is flushed to the disk and then takes the
place in one step. A program that is killed leaves the old file or the new one, and at the most a
temporary one, which carries its process's number and is swept away by the next.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(data: bytes | str) -> str:
    """Return the SHA-256 of bytes, or of a text as UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


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

    Raises:
        OSError: If it cannot be written; the old file stands.
    """
    sweep(path)
    temporary = _temporary(path)
    try:
        with _named(path):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
            _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; afterwards it takes the place of ``path``, in one step.

    An earlier folder of that name goes just before; so this is for folders that are written once.

    Raises:
        OSError: If it cannot be written; what was there before stands.
    """
    sweep(path)
    temporary = _temporary(path)
    try:
        with _named(path):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
            _flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def append_line(path: Path, line: str) -> None:
    """Append one line to a file, flushed to the disk before the call returns.

    Raises:
        OSError: If it cannot be written.
    """
    with _named(path), path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())


def sweep(path: Path) -> None:
    """Remove what killed processes left of ``path``: temporary files whose process is no more."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
    for other in path.parent.glob(f".{_escaped(path.name)}.*.tmp"):
        match = pattern.fullmatch(other.name)
        if match and int(match[1]) != os.getpid() and not _is_running(int(match[1])):
            shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink(
                missing_ok=True
            )


@contextmanager
def only_writer(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for one process until the block ends.

    The lock is the operating system's: it goes with the process, however that ends.

    Args:
        folder: Folder to hold; made if missing.
        what: What is done in it, for the message.

    Raises:
        FileExistsError: If another process holds it.
        OSError: If the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise FileExistsError(
                errno.EEXIST,
                f"another process is at {what} in {folder}: wait for it, or choose another folder",
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error of the operating system name the file that was meant."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise OSError(error.errno, f"{path} was not written: {reason}") from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Flush a folder's own entries, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_running(process: int) -> bool:
    import psutil

    return psutil.pid_exists(process)
