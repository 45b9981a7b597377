"""Where the course's files are found, from a checkout and from an installed wheel."""

from pathlib import Path

import platformdirs
import pytest

from course_utils import paths


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the package lies in an empty site-packages folder; return the package."""
    package = tmp_path / "site-packages" / "course_utils"
    package.mkdir(parents=True)
    monkeypatch.setattr(paths, "_PACKAGE", package)
    return package


def add_data(folder: Path) -> Path:
    (folder / "lexicons").mkdir(parents=True)
    return folder


def test_this_checkout_has_its_data():
    assert (paths.data_dir() / "lexicons" / "names.yaml").is_file()
    assert (paths.checkout_dir() / "pyproject.toml").is_file()


def test_the_working_folder_does_not_matter(tmp_path, monkeypatch):
    before = paths.data_dir(), paths.checkout_dir()
    monkeypatch.chdir(tmp_path)
    assert (paths.data_dir(), paths.checkout_dir()) == before
    assert all(path.is_absolute() for path in before)


def test_a_wheel_carries_its_data_inside(installed):
    data = add_data(installed / "_data")
    assert paths.data_dir() == data
    assert paths.checkout_dir() is None


def test_a_checkout_goes_before_data_left_inside_the_package(installed):
    add_data(installed / "_data")
    data = add_data(installed.parent / "data")
    assert paths.data_dir() == data


def test_a_strangers_data_folder_is_not_taken_for_the_courses(installed):
    (installed.parent / "data").mkdir()
    data = add_data(installed / "_data")
    assert paths.data_dir() == data


def test_missing_data_is_one_sentence_that_names_both_places(installed):
    with pytest.raises(FileNotFoundError) as caught:
        paths.data_dir()
    message = str(caught.value)
    assert "\n" not in message
    assert str(installed / "_data") in message
    assert str(installed.parent / "data") in message
    assert "install" in message


@pytest.mark.parametrize("part", ["pyproject.toml", "data"])
def test_half_a_checkout_is_none(installed, part):
    path = installed.parent / part
    path.touch() if path.suffix else path.mkdir()
    assert paths.checkout_dir() is None


def test_what_is_remembered_is_in_the_checkout_or_with_the_user_or_where_the_reader_says(
    installed, monkeypatch, tmp_path
):
    monkeypatch.delenv("COURSE_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-home"))
    assert paths.state_dir() == platformdirs.user_data_path("course-utils")
    (installed.parent / "pyproject.toml").touch()
    (installed.parent / "data").mkdir()
    assert paths.state_dir() == installed.parent / ".course"
    monkeypatch.setenv("COURSE_STATE_DIR", str(tmp_path / "chosen"))
    assert paths.state_dir() == tmp_path / "chosen"


def test_on_a_read_only_share_what_is_remembered_is_with_the_user(installed, monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-home"))
    (installed.parent / "pyproject.toml").touch()
    (installed.parent / "data").mkdir()
    monkeypatch.setattr(paths, "is_writable", lambda folder: folder != installed.parent)
    assert paths.state_dir() == platformdirs.user_data_path("course-utils")
