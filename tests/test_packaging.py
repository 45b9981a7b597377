"""The ways to install the course agree with one another, and a wheel carries the data."""

import re
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
        "from pathlib import Path\nfrom course_utils import doctor, paths\n"
        "assert paths.checkout_dir() is None\n"
        f"assert paths.data_dir().is_relative_to({str(tmp_path)!r})\n"
        "assert doctor.pinned_versions()['torch']\n"
    )
    command = [sys.executable, "-P", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
