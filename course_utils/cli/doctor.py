"""``course doctor``: what is right with the machine and the installation, what is broken.

The checks print nothing and change nothing; no detail of a healthy one names a path or a host.
"""

import importlib.util
import os
import platform
import re
import shutil
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.text import Text

from course_utils.cli.console import console
from course_utils.cli.notebooks.files import notebooks_dir, select_notebooks
from course_utils.paths import checkout_dir, data_dir

Status = Literal["ok", "warning", "broken"]

# A chapter's kernel holds torch, transformers, a model and its optimizer.
_COMFORTABLE_MEMORY_BYTES = 3 * 2**30
_LEAST_MEMORY_BYTES = 2**30
_COMFORTABLE_DISK_BYTES = 2 * 2**30
_LEAST_DISK_BYTES = 100 * 2**20
# Every chapter was run on the first; the others are expected to work, and were not run.
_TESTED_PYTHON, _EXPECTED_PYTHONS = (3, 11), ((3, 12), (3, 13))
# Colab loads these before a notebook begins: to change them needs a restart and breaks others.
_NEVER_CHANGED_ON_COLAB = ("torch", "torchvision", "numpy")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the check-up.

    Args:
        name: What was looked at.
        status: ``ok``, ``warning`` (the course runs, perhaps not as described) or ``broken``.
        detail: What was found.
        fix: What to do about it; empty if the status is ``ok``.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


_STYLES = {"ok": "green", "warning": "yellow", "broken": "bold red"}


def doctor() -> None:
    """Check the machine and the installation; exit with 1 if something is broken."""
    counts: Counter[str] = Counter()
    with console.status("looking") as status:
        for check in iterate_checks(lambda subject: status.update(f"looking at {subject}")):
            counts[check.status] += 1
            console.print(_as_line(check), soft_wrap=True)
    console.print(Text(", ".join(f"{counts[name]} {name}" for name in _STYLES), style="bold"))
    if counts["broken"]:
        raise typer.Exit(1)


def _as_line(check: Check) -> Text:
    text = Text(f"{check.status:8}", style=_STYLES[check.status])
    text.append(f"{check.name:16}{check.detail}", style="not bold default")
    if check.fix:
        text.append(f"\n{'':8}{'fix:':>15} {check.fix}", style="not bold default")
    return text


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, status="ok", detail=detail)


def _warning(name: str, detail: str, fix: str) -> Check:
    return Check(name=name, status="warning", detail=detail, fix=fix)


def _broken(name: str, detail: str, fix: str) -> Check:
    return Check(name=name, status="broken", detail=detail, fix=fix)


def _broken_by(name: str, error: Exception) -> Check:
    """Turn the package's own kind of message, ``what is wrong: what to do``, into a check."""
    found, _, fix = str(error).partition(": ")
    return _broken(name, found, fix or "fetch the course again")


def run_checks() -> list[Check]:
    """Look at everything the course needs; takes as long as importing torch."""
    return list(iterate_checks())


def iterate_checks(announce: Callable[[str], None] = lambda _: None) -> Iterator[Check]:
    """Yield the checks one by one, the slow ones last.

    Args:
        announce: Called with what is about to be looked at.
    """
    for subject, look in _CHECKS:
        announce(subject)
        try:
            yield from look()
        except Exception as error:  # a check-up that stops half-way helps nobody
            yield _broken(subject, f"{type(error).__name__}: {error}", "report this line")


def _check_python() -> Iterator[Check]:
    found = f"{platform.python_version()} on {platform.system()}"
    if sys.version_info[:2] == _TESTED_PYTHON:
        yield _ok("Python", f"{found}; every chapter was run on it")
    elif sys.version_info[:2] in _EXPECTED_PYTHONS:
        yield _ok("Python", f"{found}; expected to work, the chapters were run on 3.11")
    else:
        yield _warning("Python", found, "if a chapter fails, use 3.11, on which all were run")


def on_colab() -> bool:
    """Return whether this is a Colab runtime, which brings its own Jupyter and its own versions."""
    return "COLAB_RELEASE_TAG" in os.environ


def pinned_versions() -> dict[str, str]:
    """Return the exact versions the course was tested with, from ``constraints.txt``.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    path = (checkout_dir() or data_dir()) / "constraints.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: fetch the course again")
    pins = re.findall(r"^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def _requirements() -> list[Requirement]:
    """Return what the package requires here; in a checkout that is JupyterLab as well."""
    checkout = checkout_dir()
    if checkout:
        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
        project = project["project"]
        extra = [] if on_colab() else project["optional-dependencies"]["lab"]
        lines = project["dependencies"] + extra
    else:
        lines = metadata.requires("course-utils") or []
    listed = [Requirement(line) for line in lines]
    return [r for r in listed if r.marker is None or r.marker.evaluate({"extra": ""})]


def _check_packages() -> Iterator[Check]:
    try:
        tested = pinned_versions()
    except FileNotFoundError as error:
        yield _broken_by("packages", error)
        return
    requirements = _requirements()
    deviations = [check for r in requirements if (check := _check_package(r, tested))]
    n_as_tested = len(requirements) - len(deviations)
    yield _ok("packages", f"{n_as_tested} of {len(requirements)} at the tested versions")
    yield from deviations
    yield _check_trl()


def _check_trl() -> Check:
    """TRL comes without its dependencies: they would replace Colab's datasets and pyarrow."""
    fix = "pip install --no-deps 'trl==1.12.*'"
    try:
        installed = metadata.version("trl")
    except metadata.PackageNotFoundError:
        return _warning("trl", "not installed; chapters 07 to 09 need it", fix)
    if installed.startswith("1.12."):
        return _ok("trl", installed)
    return _warning("trl", f"{installed}; chapters 07 to 09 were run with 1.12", fix)


def _check_package(requirement: Requirement, tested: Mapping[str, str]) -> Check | None:
    """Return what is wrong with a package, or None if it is at its tested version."""
    name, wanted = requirement.name, tested.get(canonicalize_name(requirement.name))
    install = f"pip install '{name}=={wanted}'" if wanted else f"pip install '{requirement}'"
    if on_colab():
        install = f"pip install '{requirement}'"
        if name in _NEVER_CHANGED_ON_COLAB:
            install = "leave it as Colab has it, or choose another runtime version"
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return _broken(name, "not installed", install)
    if not requirement.specifier.contains(installed, prereleases=True):
        found = f"{installed}; {requirement.specifier} is what the course is made for"
        return _warning(name, found, f"if it fails: {install}")
    if wanted and not on_colab() and installed.partition("+")[0] != wanted:
        return _warning(name, f"{installed}; tested with {wanted}", f"if it fails: {install}")
    return None


def _check_cores() -> Iterator[Check]:
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux; a container may be given fewer cores
    n_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if n_cores >= 2:
        yield _ok("cores", str(n_cores))
    else:
        yield _warning("cores", str(n_cores), "the chapters' minutes are for two cores")


def _check_memory() -> Iterator[Check]:
    memory = psutil.virtual_memory()
    free_bytes = min(memory.available, _container_memory_bytes())
    yield _judge_amount("memory", free_bytes, _COMFORTABLE_MEMORY_BYTES, _LEAST_MEMORY_BYTES)


def _container_memory_bytes() -> float:
    """Return what a container's limit leaves; infinity outside one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit_bytes = int((group / "memory.max").read_text())
        return limit_bytes - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")


def _check_disk() -> Iterator[Check]:
    free_bytes = shutil.disk_usage(Path(__file__).parent).free
    yield _judge_amount("disk", free_bytes, _COMFORTABLE_DISK_BYTES, _LEAST_DISK_BYTES)


def _judge_amount(name: str, free_bytes: float, comfortable: int, least: int) -> Check:
    detail = f"{_gib(free_bytes)} free"
    if free_bytes >= comfortable:
        return _ok(name, detail)
    judge = _warning if free_bytes >= least else _broken
    return judge(name, detail, f"free some: {_gib(comfortable)} is comfortable")


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"


def _check_embedded_model() -> Iterator[Check]:
    from course_utils.models import embedded_model_dir, verify_checksums

    try:
        folder = embedded_model_dir()
        verify_checksums(folder)
    except (OSError, ValueError) as error:
        yield _broken_by("embedded model", error)
        return
    size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    yield _ok("embedded model", f"{size_bytes / 1e6:.1f} MB, checksum matches")


def _check_adapters() -> Iterator[Check]:
    from course_utils.methods.storage import AdapterError, read_adapter
    from course_utils.rlhf.assistant import SHIPPED, adapter_folder

    try:
        for name in SHIPPED:
            read_adapter(adapter_folder(name))
    except AdapterError as error:
        yield _broken("adapters", str(error), "git checkout -- data/adapters")
        return
    yield _ok("adapters", f"{' and '.join(SHIPPED)}, checksums match")


def _check_notebooks() -> Iterator[Check]:
    try:
        numbers = [path.name[:2] for path in select_notebooks(notebooks_dir())]
    except FileNotFoundError:
        if checkout_dir():
            yield _broken("notebooks", "none found", "git checkout -- notebooks")
        else:
            yield _warning("notebooks", "none found", "clone the course to have them")
        return
    yield _ok("notebooks", ", ".join(numbers))


def _check_jupyter() -> Iterator[Check]:
    missing = [n for n in ("jupyterlab", "ipykernel") if not importlib.util.find_spec(n)]
    if on_colab():
        yield _ok("Jupyter", "Colab's own")
    elif missing:
        fix = f"pip install {' '.join(missing)}"
        yield _warning("Jupyter", f"no {', no '.join(missing)}", fix)
    else:
        yield _ok("Jupyter", "JupyterLab and its kernel are there")


def _check_torch() -> Iterator[Check]:
    try:
        import torch

        torch.ones(2).sum().item()
    except (ImportError, OSError, RuntimeError) as error:
        found = f"{type(error).__name__}: {error}"
        yield _broken("torch", found, "pip install --force-reinstall torch")
        return
    yield _ok("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield _check_gpu()


def _check_gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        bfloat16 = "has" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
        capability = f"compute capability {gpu.major}.{gpu.minor}, {bfloat16} bfloat16"
        return _ok("GPU", f"{gpu.name}, {_gib(gpu.total_memory)}, {capability}")
    if shutil.which("nvidia-smi"):
        found = "there is an NVIDIA driver, but this torch cannot use it"
        return _warning("GPU", found, "install torch's CUDA build (pytorch.org, Get started)")
    return _ok("GPU", "none, and none is needed")


def _check_profile() -> Iterator[Check]:
    from course_utils.models.profiles import current_profile

    try:
        profile = current_profile()
    except ValueError as error:
        yield _broken("profile", str(error), "unset COURSE_PROFILE, or name one of these")
        return
    found = f"{profile.name}: {profile.model} model on {profile.device} in {profile.dtype}"
    if profile.name != "cpu" and profile.device == "cpu":
        fix = f"{profile.name} is made for a GPU: set COURSE_PROFILE=cpu"
        yield _warning("profile", found, fix)
    else:
        yield _ok("profile", found)


_CHECKS: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
    ("Python", _check_python),
    ("packages", _check_packages),
    ("cores", _check_cores),
    ("memory", _check_memory),
    ("disk", _check_disk),
    ("embedded model", _check_embedded_model),
    ("notebooks", _check_notebooks),
    ("Jupyter", _check_jupyter),
    ("torch (the import takes some seconds)", _check_torch),
    ("adapters", _check_adapters),
    ("profile", _check_profile),
)
