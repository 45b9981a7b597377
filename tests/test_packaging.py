"""The ways to install the course agree with one another, and a wheel carries the data."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]

# What a machine has of its own: the installer, this package, and the CUDA parts of torch.
UNPINNED = ("pip", "course-utils", "nvidia-", "cuda-", "triton")


def read_constraints() -> dict[str, str]:
    """Return the pinned version by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_constraints_are_exact_public_versions_without_paths():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line
    assert len(read_constraints()) == len(pins)


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_every_requirement_is_pinned_inside_its_range(line):
    requirement = Requirement(line)
    pinned = read_constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned, prereleases=True)


def test_what_is_installed_here_is_what_is_pinned():
    pins = read_constraints()
    installed = {canonicalize_name(d.name): d.version for d in metadata.distributions()}
    wrong = {
        name: (version, pins.get(name))
        for name, version in installed.items()
        if not name.startswith(UNPINNED) and version.partition("+")[0] != pins.get(name)
    }
    assert not wrong, "installed and pinned versions differ"


def test_the_conda_environment_installs_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    python = next(line for line in conda if line.startswith("python="))
    assert Version(python.partition("=")[2]) in SpecifierSet(PROJECT["requires-python"])
    assert [line for line in conda if not line.startswith("python=")] == ["pip"]
    constraint, package = pip["pip"]
    assert constraint == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.+)\]", package)[1]
    assert set(extras.split(",")) <= EXTRAS.keys()
    assert f'-c constraints.txt -e ".[{extras}]"' in (ROOT / "Makefile").read_text()


def test_the_makefile_refuses_the_pythons_that_pyproject_refuses():
    least = re.search(r"sys\.version_info < \((\d+), (\d+)\)", (ROOT / "Makefile").read_text())
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(f">={least[1]}.{least[2]}")


@pytest.fixture
def make(tmp_path):
    """Return a function that calls make in a folder with nothing but the build files."""
    if not shutil.which("make"):
        pytest.skip("no make on this machine")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    environ = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}

    def call(*arguments):
        command = ["make", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)

    return call


def test_make_installs_once_and_again_only_after_a_change(make, tmp_path):
    assert "pip install" in make("-n", "test").stdout
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    for name in ("pyproject.toml", "constraints.txt"):
        assert "pip install" not in make("-n", "test").stdout
        newer = (tmp_path / ".venv" / ".installed").stat().st_mtime + 10
        os.utime(tmp_path / name, (newer, newer))
        assert "pip install" in make("-n", "test").stdout
        os.utime(tmp_path / name, (0, 0))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_make_refuses_an_old_python_in_one_sentence_and_installs_nothing(make, tmp_path):
    old = tmp_path / "oldpython"
    pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    result = make("lint", f"PYTHON={old}")
    assert result.returncode != 0
    assert f"The course needs Python 3.11 or newer; {old} is 3.9." in result.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Return a wheel of the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(folder))))


def list_tracked(folder: str) -> set[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "--", folder]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return {name for name in listing.stdout.splitlines() if (ROOT / name).is_file()}


def test_a_wheel_holds_all_code_all_data_and_the_constraints(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert list_tracked("course_utils") <= names
    data = {name.replace("data/", "course_utils/_data/", 1) for name in list_tracked("data")}
    assert data
    assert data <= names
    assert "course_utils/_data/constraints.txt" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "notebooks/")) for name in names)


def test_an_installed_wheel_finds_its_data_without_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from pathlib import Path\n"
        "from course_utils import paths\n"
        "from course_utils.cli import doctor\n"
        "assert paths.checkout_dir() is None\n"
        f"assert paths.data_dir().is_relative_to({str(tmp_path)!r})\n"
        "assert doctor.pinned_versions()['torch']\n"
    )
    command = [sys.executable, "-P", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
