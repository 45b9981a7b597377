"""``course pack``: the whole course on a stick, for a room without a network."""

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_utils.cli.console import console
from course_utils.cli.doctor import pinned_versions
from course_utils.validation import shown

EXTRAS = "lab,trl"


class System(StrEnum):
    """What the laptops run."""

    windows = "windows"
    linux = "linux"
    mac = "mac"


_ASKED = ("sys_platform", "platform_system", "os_name", "platform_machine")
# pip's names of the systems, oldest first; a wheel for any of them will do.
PLATFORMS = {
    System.windows: ("win_amd64",),
    System.linux: (
        "manylinux2014_x86_64",
        *(f"manylinux_2_{n}_x86_64" for n in (17, 24, 26, 27, 28, 31, 34, 35)),
        "linux_x86_64",
    ),
    System.mac: tuple(
        f"macosx_{n}_0_{kind}" for n in (11, 12, 13, 14) for kind in ("arm64", "universal2")
    ),
}
# What packages ask of a system, and its answers.
ANSWERS = {
    System.windows: dict(zip(_ASKED, ("win32", "Windows", "nt", "AMD64"), strict=True)),
    System.linux: dict(zip(_ASKED, ("linux", "Linux", "posix", "x86_64"), strict=True)),
    System.mac: dict(zip(_ASKED, ("darwin", "Darwin", "posix", "arm64"), strict=True)),
}
_INSTALL = '-m pip install --no-index --find-links wheels "course-utils[{extras}]"'
_LAB = "-m course_utils.cli lab"
_WINDOWS = """py -{python} -m venv course-env && course-env\\Scripts\\python {install}
course-env\\Scripts\\python {lab}
"""
_POSIX = """python{python} -m venv course-env && course-env/bin/python {install}
course-env/bin/python {lab}
"""
_README = """This folder holds the course and all that it needs, for {system} and Python {python}.
Nothing is fetched from a network. Install Python {python} first, if it is not there.

{start}

The first start installs into the folder course-env, which takes some minutes.
Your copies of the chapters are in your documents, in efficient-fine-tuning.
"""


def pack(
    file: Annotated[Path, typer.Argument(help="The zip to write.")] = Path("course.zip"),
    system: Annotated[System, typer.Option(help="What the laptops run.")] = System.windows,
    python: Annotated[str, typer.Option(help="Their Python, such as 3.12.")] = "3.11",
    index: Annotated[
        str | None,
        typer.Option(help="A further index, such as PyTorch's whl/cpu, which spares Linux CUDA."),
    ] = None,
) -> None:
    """Write a zip with the course and all its packages: a room without a network installs from it.

    This machine needs a network, the laptops need none, only Python. About 500 MB.
    """
    from course_utils.files import replacement_of
    from course_utils.paths import checkout_dir

    checkout = checkout_dir()
    if checkout is None:
        raise ValueError("course pack is for a clone of the course: there is none here")
    with tempfile.TemporaryDirectory() as temporary:
        wheels = Path(temporary)
        with console.status("building the course's wheel"):
            _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(checkout))
        with console.status(f"downloading its packages for {system.value}, Python {python}"):
            _pip(*download_arguments(wheels, system, python, index))
        with replacement_of(file) as place:
            write_zip(place, sorted(wheels.glob("*.whl")), checkout / "notebooks", system, python)
    console.print(f"{file}: {file.stat().st_size / 1e6:.0f} MB", soft_wrap=True)


def packages_for(system: System, python: str) -> list[str]:
    """Return every package that the course needs there, each at the version it was tested with.

    pip would resolve for the machine it runs on, whatever platform it is told: it takes conditions
    such as ``platform_system == "Linux"`` from here. So they are followed from package to package,
    as they are installed here, with the other system's answers. What only the other system needs
    is not installed here and has no version yet: it stands for itself.

    Raises:
        ValueError: If the version of Python is not like ``3.11``.
    """
    if not re.fullmatch(r"3\.\d{1,2}", python):
        raise ValueError(f"--python {shown(python)} must be like 3.11")
    answers = ANSWERS[system] | {"python_version": python, "python_full_version": f"{python}.9"}
    pins, found = pinned_versions(), {}
    queue = [Requirement(f"course-utils[{EXTRAS}]")]
    visited = set()
    while queue:
        wanted = queue.pop()
        name, extras = canonicalize_name(wanted.name), {"", *wanted.extras}
        if (name, *sorted(extras)) in visited:
            continue
        visited.add((name, *sorted(extras)))
        if name != "course-utils":
            found[name] = f"{name}=={pins[name]}" if name in pins else f"{name}{wanted.specifier}"
        for further in map(Requirement, _requires(name)):
            asks = (answers | {"extra": extra} for extra in extras)
            if further.marker is None or any(map(further.marker.evaluate, asks)):
                queue.append(further)
    return [found[name] for name in sorted(found)]


def _requires(name: str) -> list[str]:
    """Return what a package that is installed here requires; of another one nothing is known."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def download_arguments(
    wheels: Path, system: System, python: str, index: str | None = None
) -> list[str]:
    """Return what pip is told, to fetch every package that the course needs there."""
    arguments = ["download", "--no-deps", "--dest", str(wheels), "--only-binary", ":all:"]
    for platform in PLATFORMS[system]:
        arguments += ["--platform", platform]
    # The last release of each with an installer is a 9 or later; some packages ask for 3.11.5.
    arguments += ["--python-version", f"{python}.9", "--implementation", "cp"]
    if index:
        arguments += ["--extra-index-url", index]
    return [*arguments, *packages_for(system, python)]


def write_zip(
    place: Path, wheels: Sequence[Path], notebooks: Path, system: System, python: str
) -> None:
    """Write the wheels, the chapters, a start script of two lines, and how to use it."""
    is_windows = system is System.windows
    name, script = ("start.bat", _WINDOWS) if is_windows else ("start.sh", _POSIX)
    install = _INSTALL.format(extras=EXTRAS)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as packed:
        for wheel in wheels:
            packed.write(wheel, f"course/wheels/{wheel.name}")
        for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
            packed.write(path, f"course/notebooks/{path.name}")
        packed.writestr(f"course/{name}", script.format(python=python, install=install, lab=_LAB))
        start = "Double-click start.bat." if is_windows else "In this folder: sh start.sh"
        packed.writestr(
            "course/README.txt", _README.format(system=system.value, python=python, start=start)
        )


def _pip(*arguments: str) -> None:
    """Run pip.

    Raises:
        OSError: If it fails; the message ends with what pip said last.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [
            line.strip() for line in done.stderr.splitlines() if line.startswith(("ERROR", " "))
        ]
        raise OSError(f"pip {arguments[0]} failed: {' '.join(lines[-5:]) or 'it said nothing'}")
