"""Readers work on copies: made once, never overwritten, brought up to date when they ask."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_utils.cli import app
from course_utils.cli.notebooks.copies import bring, own_folder
from course_utils.cli.notebooks.files import select_notebooks

FIRST, SECOND = "00_a.ipynb", "01_b.ipynb"


@pytest.fixture
def source(tmp_path):
    """Return a folder with two chapters."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in (FIRST, SECOND):
        (folder / name).write_text(f"{name} 1")
    return folder


def test_copies_are_made_once(source, tmp_path):
    mine = tmp_path / "deep" / "my"
    assert bring(source, mine).added == (FIRST, SECOND)
    again = bring(source, mine)
    assert (again.kept, again.added) == ((FIRST, SECOND), ())
    assert (mine / FIRST).read_text() == f"{FIRST} 1"


@pytest.mark.parametrize("record", ["whole", "damaged", "missing"])
def test_what_the_reader_changed_is_never_overwritten(source, tmp_path, record):
    mine = tmp_path / "my"
    bring(source, mine)
    (mine / FIRST).write_text("my answers")
    for name in (FIRST, SECOND):
        (source / name).write_text(f"{name} 2")
    (source / "02_c.ipynb").write_text("c")
    if record != "whole":
        (mine / ".copied.json").write_text("[" if record == "damaged" else "{}")
    brought = bring(source, mine)
    assert (mine / FIRST).read_text() == "my answers"
    assert (mine / "00_a.new.ipynb").read_text() == f"{FIRST} 2"
    assert brought.added == ("02_c.ipynb",)
    if record == "whole":
        assert brought.renewed == (SECOND,)
        assert brought.beside == ("00_a.new.ipynb",)
        assert (mine / SECOND).read_text() == f"{SECOND} 2"
    else:  # Nobody knows which copies were changed: none is touched.
        assert (mine / SECOND).read_text() == f"{SECOND} 1"
    assert bring(source, mine).beside == ()
    assert [path.name for path in select_notebooks(mine)] == [FIRST, SECOND, "02_c.ipynb"]


def test_opening_brings_what_is_missing_and_tells_of_the_rest(source, tmp_path):
    mine = tmp_path / "my"
    bring(source, mine)
    (mine / SECOND).unlink()
    (source / FIRST).write_text("new")
    brought = bring(source, mine, renews=False)
    assert (brought.added, brought.waiting) == ((SECOND,), (FIRST,))
    assert (mine / FIRST).read_text() == f"{FIRST} 1"


def test_the_course_s_own_folder_is_no_copy(source):
    with pytest.raises(ValueError, match="holds the course's own notebooks"):
        bring(source, source)


def test_a_full_disk_leaves_what_was_there(source, tmp_path, monkeypatch):
    mine = tmp_path / "my"
    bring(source, mine)
    (source / FIRST).write_text("new")

    def fail(self, data):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=FIRST):
        bring(source, mine)
    assert (mine / FIRST).read_text() == f"{FIRST} 1"


def test_copies_are_in_the_checkout_or_with_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr("course_utils.cli.notebooks.copies.checkout_dir", lambda: tmp_path)
    assert own_folder() == tmp_path / "my"
    monkeypatch.setattr("course_utils.cli.notebooks.copies.is_writable", lambda folder: False)
    assert own_folder().name == "efficient-fine-tuning"
    monkeypatch.setattr("course_utils.cli.notebooks.copies.checkout_dir", lambda: None)
    assert own_folder().name == "efficient-fine-tuning"


def test_the_commands(source, tmp_path, monkeypatch):
    monkeypatch.setattr("course_utils.cli.notebooks.files.notebooks_dir", lambda: source)
    mine = str(tmp_path / "my")
    course = lambda *words: CliRunner().invoke(app, list(words)).output  # noqa: E731
    assert "2 new" in course("notebooks", mine)
    for name in (FIRST, SECOND):
        (source / name).write_text("new")
    (tmp_path / "my" / FIRST).write_text("mine")
    assert "2 left as they are" in course("notebooks", mine)
    assert (tmp_path / "my" / SECOND).read_text() == f"{SECOND} 1"
    assert "00_a.new.ipynb" in course("update", mine)
    assert (tmp_path / "my" / SECOND).read_text() == "new"


def test_lab_opens_the_reader_s_copy(source, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("course_utils.cli.lab.open_lab", calls.append)
    monkeypatch.setattr("course_utils.cli.notebooks.files.notebooks_dir", lambda: source)
    for module in ("course_utils.paths", "course_utils.cli.notebooks.copies"):
        monkeypatch.setattr(f"{module}.checkout_dir", lambda: tmp_path)
    result = CliRunner().invoke(app, ["lab", "--no-browser"])
    assert result.exit_code == 0, result.output
    assert f"--LabApp.default_url=/lab/tree/my/{FIRST}" in calls[0]
    assert f"--ServerApp.root_dir={tmp_path}" in calls[0]
    record = json.loads((tmp_path / "my" / ".copied.json").read_text())
    assert set(record) == {FIRST, SECOND}
    (source / FIRST).write_text("new")
    assert "1 have a new version" in CliRunner().invoke(app, ["lab", "--no-browser"]).output
