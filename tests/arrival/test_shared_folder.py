"""A read-only share, a folder that was moved, and a clone made on Windows."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from course_utils.paths import checkout_dir, data_dir
from course_utils.studies import runner

ROOT = checkout_dir()


@pytest.fixture
def share(tmp_path, monkeypatch):
    """Make the course's data a folder that cannot be written to; return the user's own."""
    results = tmp_path / "share" / "results"
    results.mkdir(parents=True)
    (results / "ranks.jsonl").write_bytes((data_dir() / "results" / "ranks.jsonl").read_bytes())
    own = tmp_path / "own"
    monkeypatch.setenv("COURSE_STATE_DIR", str(own))
    monkeypatch.setattr(runner, "data_dir", lambda: tmp_path / "share")
    monkeypatch.setattr(runner, "is_writable", lambda folder: folder != results)
    return own


def test_a_study_on_a_share_goes_on_in_the_user_s_folder(share, tmp_path):
    shipped = tmp_path / "share" / "results" / "ranks.jsonl"
    before = runner.load_results("ranks")
    assert runner.results_path("ranks") == shipped
    path = runner.path_to_record("ranks")
    assert path == share / "results" / "ranks.jsonl"
    assert runner.load_results("ranks") == before
    with path.open("a") as file:
        file.write("\n")
    assert runner.path_to_record("ranks") == path  # What the user has is not copied over.
    assert path.read_bytes() == shipped.read_bytes() + b"\n"
    assert runner.results_path("ranks") == path
    assert runner.path_to_record("new").read_bytes() == b""


def test_a_share_that_can_be_written_to_keeps_its_record(share, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "is_writable", lambda folder: True)
    assert runner.path_to_record("ranks") == tmp_path / "share" / "results" / "ranks.jsonl"


def test_what_make_installed_does_not_know_where_the_folder_is():
    """A copied or moved folder must not import the package from where it once was."""
    links = list(Path(sysconfig.get_path("purelib")).glob("*course_utils.pth"))
    if not links or not (ROOT / ".venv").is_dir():
        pytest.skip("the course was not installed by make")
    for link in links:
        path = link.read_text().strip()
        assert not os.path.isabs(path)
        assert (link.parent / path).resolve() == ROOT


def test_make_starts_nothing_that_names_its_python_by_an_absolute_path():
    recipes = [line for line in (ROOT / "Makefile").read_text().splitlines() if line[:1] == "\t"]
    started = [line for line in recipes if ".venv/bin" in line or "$(RUN)" in line]
    assert len(started) >= 6
    assert all("$(RUN) -" in line for line in started)


def test_a_clone_made_on_windows_keeps_every_byte(tmp_path):
    """With core.autocrlf, as git on Windows has it by default, checksums still match."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    git = ["git", "-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    clone = tmp_path / "clone"
    subprocess.run([*git, "clone", "--quiet", "--depth=1", ROOT.as_uri(), clone], check=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=clone, capture_output=True, check=True)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    assert len(names) > 300
    texts = [clone / name for name in names if not name.endswith((".safetensors", ".png"))]
    assert [path for path in texts if b"\r\n" in path.read_bytes()] == []
    from course_utils.models import verify_checksums

    verify_checksums(clone / "data" / "base_model")
