"""A file is the old one or the new one at any moment, however the program that writes it ends."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from course_utils.files import (
    append_line,
    new_folder,
    only_writer,
    replacement_of,
    sha256,
    sha256_of,
    sweep,
    write_bytes,
    write_text,
)
from tests.faults.children import in_child

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
OLD, NEW = "the old one\n" * 400, "the new one\n" * 400


def write_in_parts(path: Path) -> None:
    with replacement_of(path) as temporary, temporary.open("w") as file:
        for line in NEW.splitlines(keepends=True):
            file.write(line)


def write_folder(path: Path) -> None:
    with new_folder(path) as temporary:
        (temporary / "inside").mkdir()
        (temporary / "inside" / "file").write_text(NEW)
        (temporary / "file").write_text(NEW)


def old_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text(OLD)
    (path / "of the old one").write_text(OLD)


def old_file(path: Path) -> None:
    path.write_text(OLD)


def contents(path: Path) -> dict[str, str] | str | None:
    if path.is_dir():
        files = (inside for inside in path.rglob("*") if inside.is_file())
        return {str(inside.relative_to(path)): inside.read_text() for inside in files}
    return path.read_text() if path.exists() else None


WRITERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "text": (old_file, lambda path: write_text(path, NEW)),
    "bytes": (old_file, lambda path: write_bytes(path, NEW.encode())),
    "in parts": (old_file, write_in_parts),
    "folder": (old_folder, write_folder),
    "new text": (lambda path: None, lambda path: write_text(path, NEW)),
    "new folder": (lambda path: None, write_folder),
}


@needs_fork
@pytest.mark.parametrize("what", WRITERS)
def test_killed_between_any_two_steps_it_is_the_old_one_or_the_new_one(what: str, tmp_path: Path):
    prepare, write = WRITERS[what]
    write(tmp_path / "expected")
    new, seen = contents(tmp_path / "expected"), []
    for step in range(200):
        folder = tmp_path / str(step)
        folder.mkdir()
        prepare(folder / "it")
        old = contents(folder / "it")
        ending = in_child(lambda path=folder / "it": write(path), kill_at_call=step)
        found = contents(folder / "it")
        assert found in (old, new)
        seen.append(found == new)
        write(folder / "it")
        assert contents(folder / "it") == new
        assert [path.name for path in folder.iterdir()] == ["it"]
        if not ending.was_killed:
            break
    assert not ending.was_killed
    assert ending.said == "None"
    assert seen == sorted(seen)
    assert seen.count(False) > 3


@needs_fork
@pytest.mark.parametrize("what", WRITERS)
def test_on_a_full_disk_the_old_one_stands(what: str, tmp_path: Path):
    prepare, write = WRITERS[what]
    prepare(tmp_path / "it")
    old = contents(tmp_path / "it")
    ending = in_child(lambda: write(tmp_path / "it"), most_bytes=len(NEW) - 1)
    assert ending.said.startswith(f"clear: OSError: {tmp_path / 'it'} was not written: File too")
    assert contents(tmp_path / "it") == old
    assert [path.name for path in tmp_path.iterdir()] == ["it"] * (old is not None)


def test_a_full_disk_is_called_so(tmp_path: Path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    full = pytest.raises(OSError, match=f"^{tmp_path / 'it'} was not written: the disk is full$")
    with full, replacement_of(tmp_path / "it"):
        Path("/dev/full").write_text("a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "[a]*?.txt", ".hidden", "a b\nc", "x.tmp"])
def test_any_name_that_a_file_may_have_will_do(name: str, tmp_path: Path):
    write_text(tmp_path / name, OLD)
    write_text(tmp_path / name, NEW)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == NEW


def process_that_ended() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path):
    running, ended = psutil.Process().ppid() or 1, process_that_ended()
    kept = [
        f".it.{running}-0.tmp",
        f".it.{10**30}.tmp",
        f".its.{ended}-0.tmp",
        ".it.notes.tmp",
        f"it.{ended}-0.tmp",
        f".it.{ended}-0.tmp.txt",
    ]
    swept = [f".it.{ended}.tmp", f".it.{ended}-3.tmp", f".it.{os.getpid()}-99999.tmp"]
    for name in kept + swept:
        (tmp_path / name).write_text("a")
    (tmp_path / f".it.{ended}-7.tmp").mkdir()
    (tmp_path / f".it.{ended}-7.tmp" / "file").write_text("a")
    with replacement_of(tmp_path / "it") as own:
        own.write_text("b")
        sweep(tmp_path / "it")
        write_text(tmp_path / "it", "c")
        assert own.read_text() == "b"
    assert {path.name for path in tmp_path.iterdir()} == {"it", *kept}
    assert (tmp_path / "it").read_text() == "b"


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "away").mkdir()
    for name, write in (("file", lambda path: write_text(path, NEW)), ("folder", write_folder)):
        write(tmp_path / "away" / name)
        (tmp_path / name).symlink_to(tmp_path / "away" / name)
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert len(list((tmp_path / "away").iterdir())) == 1 + (name == "folder")


@pytest.fixture(params=["pipe", "socket", "device", "folder"])
def no_file(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What is there is no file; a look into it might never end."""
    path = tmp_path / "it"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    else:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("it")
    return path


def test_what_is_no_file_is_neither_read_nor_replaced(no_file: Path):
    kind = no_file.stat().st_mode
    for use in (sha256, lambda path: write_text(path, NEW)):
        with pytest.raises(OSError, match=f"^{no_file} is a folder, pipe, socket or device"):
            use(no_file)
    assert no_file.stat().st_mode == kind


@pytest.mark.parametrize("before", ["", "a\n", "a\nhal"])
def test_a_line_is_one_of_its_own(before: str, tmp_path: Path):
    path = tmp_path / "it"
    path.write_text(before)
    for line in ("b", "é"):
        append_line(path, line)
    assert path.read_text().splitlines() == [*before.splitlines(), "b", "é"]
    assert path.read_bytes().endswith("b\né\n".encode())


def test_errors_name_the_file(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "none" / "it", tmp_path / "file" / "it", tmp_path / ("é" * 200)):
        for write in (lambda path: write_text(path, NEW), lambda path: append_line(path, "a")):
            with pytest.raises(OSError, match=r"was not written: \w") as caught:
                write(path)
            assert str(caught.value).startswith(f"{path} was not written: ")
            assert caught.value.errno
    assert (tmp_path / "file").read_text() == "mine"


def test_checksums_are_those_of_the_bytes(tmp_path: Path):
    write_text(tmp_path / "it", "é")
    assert sha256(tmp_path / "it") == sha256_of("é") == sha256_of(b"\xc3\xa9")
    assert sha256_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# One writer at a time


HOLD = """
import sys
from pathlib import Path
from course_utils.files import only_writer
with only_writer(Path(sys.argv[1]), "testing"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["it ends", "it is killed"])
def test_a_folder_is_held_as_long_as_the_process_lives(how: str, tmp_path: Path):
    folder = tmp_path / "new" / "folder"
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        taken = f"^another process is at more in {folder}: wait"
        with pytest.raises(FileExistsError, match=taken), only_writer(folder, "more"):
            pytest.fail("both hold it")
        if how == "it is killed":
            process.kill()
        process.stdin.close()
        process.wait()
    with only_writer(folder, "more"), pytest.raises(FileExistsError), only_writer(folder, "more"):
        pytest.fail("one process holds it twice")
    with only_writer(folder, "more"):
        assert [path.name for path in folder.iterdir()] == [".lock"]


def test_one_may_wait_for_a_folder_that_another_process_holds(tmp_path: Path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        process.stdin.close()
        with only_writer(tmp_path, "more", patience_seconds=60):
            assert process.wait() == 0


NOBODY = 65534


@needs_fork
@pytest.mark.parametrize("mode", [0o555, 0o333, 0o000])
def test_a_folder_that_is_closed_is_noticed_at_once(mode: int, tmp_path: Path):
    """As root everything is open, so that another user tries."""
    folder = tmp_path / "it"
    folder.mkdir()
    with only_writer(folder, "testing"):
        (folder / ".lock").chmod(0o666)
    for outer in (tmp_path, *list(tmp_path.parents)[:2]):
        outer.chmod(0o755)
    folder.chmod(mode)

    def hold() -> None:
        with only_writer(folder, "testing"):
            pass

    ending = in_child(hold, user=NOBODY if os.geteuid() == 0 else None)
    folder.chmod(0o755)
    assert ending.said == f"clear: PermissionError: {folder} cannot be used: Permission denied"
