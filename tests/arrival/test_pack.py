"""A zip from which a room without a network installs: what is asked for, and what is in it."""

import zipfile

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from course_utils.cli import app, pack
from course_utils.cli.notebooks.files import notebooks_dir, select_notebooks
from course_utils.cli.pack import PLATFORMS, System, download_arguments, packages_for


def names(system: System) -> set[str]:
    return {Requirement(line).name for line in packages_for(system, "3.11")}


def test_every_package_is_asked_for_at_the_version_that_was_tested():
    packages = packages_for(System.linux, "3.11")
    assert {"torch==2.13.0", "trl==1.12.0", "jupyterlab==4.6.6"} <= set(packages)
    assert all("==" in line for line in packages)
    assert not {"pytest", "ruff", "course-utils"} & names(System.linux)


def test_a_system_gets_what_it_needs_and_not_what_this_one_needs():
    assert names(System.windows) - names(System.linux) == {"pywinpty"}
    assert names(System.mac) - names(System.linux) == {"appnope"}
    assert {"pexpect", "ptyprocess"} <= names(System.linux) - names(System.windows)


def test_pip_is_told_the_system_and_its_python(tmp_path):
    for system, platforms in PLATFORMS.items():
        told = download_arguments(tmp_path, system, "3.12", "https://example.org/cpu")
        assert [told[i + 1] for i, word in enumerate(told) if word == "--platform"] == [*platforms]
        assert told[told.index("--python-version") + 1] == "3.12.9"
        assert told[told.index("--extra-index-url") + 1] == "https://example.org/cpu"
        assert "--no-deps" in told


@pytest.mark.parametrize("python", ["3", "3.11.4", "python3.11", "2.7"])
def test_a_python_that_is_none_is_refused(python):
    with pytest.raises(ValueError, match=r"must be like 3\.11"):
        packages_for(System.linux, python)


@pytest.fixture
def pip(monkeypatch):
    """Put two wheels where pip would, and note what it was asked."""
    asked = []

    def pretend(*arguments):
        from pathlib import Path

        asked.append(arguments[0])
        flag = {"wheel": "--wheel-dir", "download": "--dest"}[arguments[0]]
        name = {"wheel": "course_utils-1-py3-none-any.whl", "download": "torch-2-py3-none-any.whl"}
        Path(arguments[arguments.index(flag) + 1], name[arguments[0]]).write_bytes(b"wheel")

    monkeypatch.setattr(pack, "_pip", pretend)
    return asked


@pytest.mark.parametrize(("system", "start"), [("windows", "start.bat"), ("linux", "start.sh")])
def test_the_zip_holds_wheels_chapters_and_two_lines_to_start(pip, tmp_path, system, start):
    file = tmp_path / "Küche mit Platz" / "course.zip"
    file.parent.mkdir()
    result = CliRunner().invoke(app, ["pack", str(file), "--system", system])
    assert result.exit_code == 0, result.output
    assert pip == ["wheel", "download"]
    packed = zipfile.ZipFile(file)
    inside = set(packed.namelist())
    assert {"course/wheels/torch-2-py3-none-any.whl", f"course/{start}"} <= inside
    chapters = {f"course/notebooks/{path.name}" for path in select_notebooks(notebooks_dir())}
    assert chapters <= inside
    first, second = packed.read(f"course/{start}").decode().splitlines()
    assert "--no-index --find-links wheels" in first
    assert second.endswith("-m course_utils.cli lab")
    assert start in packed.read("course/README.txt").decode()


def test_what_pip_says_last_is_the_error(tmp_path, monkeypatch):
    def fail(command, **_):
        raise_ = "ERROR: No matching distribution found for torch==9"
        return type("Done", (), {"returncode": 1, "stderr": f"WARNING: x\n{raise_}\n"})

    monkeypatch.setattr(pack.subprocess, "run", fail)
    result = CliRunner().invoke(app, ["pack", str(tmp_path / "a.zip")])
    assert result.exit_code == 1
    assert "pip wheel failed: ERROR: No matching distribution found for torch==9" in result.stderr
    assert list(tmp_path.iterdir()) == []
