"""`course doctor`: every check can be ok, and can say what is wrong and how to mend it."""

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from course_utils import models
from course_utils.cli import app, doctor
from course_utils.cli.doctor import Check, pinned_versions, run_checks
from course_utils.files import sha256

GIB = 2**30


def only(checks):
    """Return the single check of a list."""
    (check,) = checks
    return check


@pytest.fixture
def model_dir(tmp_path, monkeypatch):
    """Return a folder that passes for the embedded model's, with a right checksum."""
    folder = tmp_path / "base_model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    digest = sha256(folder / "model.safetensors")
    (folder / "checksums.json").write_text(json.dumps({"model.safetensors": digest}))
    monkeypatch.setattr(models, "embedded_model_dir", lambda: folder)
    return folder


def test_what_is_wrong_has_a_fix_and_what_is_right_names_no_place():
    checks = run_checks()
    assert {
        "Python",
        "packages",
        "cores",
        "memory",
        "disk",
        "embedded model",
        "notebooks",
        "Jupyter",
        "torch",
        "GPU",
        "profile",
    } <= {check.name for check in checks}
    for check in checks:
        assert check.status in ("ok", "warning", "broken")
        assert (check.fix == "") == (check.status == "ok"), check
        if check.status == "ok":
            assert str(Path.home()) not in check.detail
            assert str(Path.cwd()) not in check.detail


def test_the_command_shows_every_line_and_fails_only_if_something_is_broken(monkeypatch):
    ok = Check(name="cores", status="ok", detail="2")
    warning = Check(name="disk", status="warning", detail="1 GiB", fix="pip install 'a[b]'")
    broken = Check(name="torch", status="broken", detail="gone", fix="fetch it")
    for checks, code in (([ok, warning], 0), ([ok, warning, broken], 1)):
        monkeypatch.setattr(doctor, "iterate_checks", lambda _, checks=checks: iter(checks))
        result = CliRunner().invoke(app, ["doctor"])
        assert result.exit_code == code
        for check in checks:
            assert check.name in result.output
            assert check.detail in result.output
            assert check.fix in result.output
    assert "1 ok, 1 warning, 1 broken" in result.output


def test_a_check_that_fails_itself_does_not_stop_the_others(monkeypatch):
    def fail():
        raise RuntimeError("no such sensor")

    monkeypatch.setattr(doctor, "_CHECKS", (("cores", fail), ("Python", doctor._check_python)))
    first, second = run_checks()
    assert first.status == "broken"
    assert "no such sensor" in first.detail
    assert second.name == "Python"


def test_an_untested_python_is_a_warning(monkeypatch):
    assert only(doctor._check_python()).status == "ok"
    monkeypatch.setattr(doctor.sys, "version_info", (3, 99, 0))
    check = only(doctor._check_python())
    assert check.status == "warning"
    assert "3.11" in check.fix
    monkeypatch.setattr(doctor.sys, "version_info", (3, 13, 0))
    assert "expected to work" in only(doctor._check_python()).detail


def test_packages_are_compared_with_the_pinned_versions():
    assert pinned_versions()["torch"] == metadata.version("torch").partition("+")[0]
    summary, *deviations = doctor._check_packages()
    n_requirements = len(doctor._requirements())
    assert [check.detail for check in deviations] == [metadata.version("trl")]
    assert summary.detail == f"{n_requirements} of {n_requirements} at the tested versions"


@pytest.mark.parametrize(
    ("requirement", "tested", "status", "detail"),
    [
        ("rich>=1", None, None, None),
        ("rich>=1", "installed", None, None),
        ("rich>=1", "0.1", "warning", "tested with 0.1"),
        ("rich>=9999", "installed", "warning", ">=9999 is what the course is made for"),
        ("no-such-package>=1", None, "broken", "not installed"),
    ],
)
def test_a_package_is_judged_by_range_and_by_tested_version(requirement, tested, status, detail):
    if tested == "installed":
        tested = metadata.version("rich")
    versions = {"rich": tested} if tested else {}
    check = doctor._check_package(Requirement(requirement), versions)
    if status is None:
        assert check is None
    else:
        assert check.status == status
        assert detail in check.detail
        assert "pip install" in check.fix


def test_a_local_build_of_the_tested_version_is_the_tested_version(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _: "2.13.0+cu128")
    assert doctor._check_package(Requirement("torch>=2.6"), {"torch": "2.13.0"}) is None
    assert doctor._check_package(Requirement("torch>=2.6"), {"torch": "2.13"}) is not None


def test_missing_constraints_are_broken_not_a_crash(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "checkout_dir", lambda: tmp_path)
    check = only(doctor._check_packages())
    assert check.status == "broken"
    assert "constraints.txt is missing" in check.detail


def test_requirements_of_a_wheel_are_those_of_the_checkout_without_jupyterlab(monkeypatch):
    checkout = doctor._requirements()
    lines = [str(r) if r.name != "jupyterlab" else f"{r}; extra == 'lab'" for r in checkout]
    monkeypatch.setattr(doctor, "checkout_dir", lambda: None)
    monkeypatch.setattr(metadata, "requires", lambda _: [*lines, "pytest; extra == 'test'"])
    wheel = [r.name for r in doctor._requirements()]
    assert wheel == [r.name for r in checkout if r.name != "jupyterlab"]


@pytest.mark.parametrize(
    ("free", "status"), [(50 * GIB, "ok"), (1.5 * GIB, "warning"), (10, "broken")]
)
def test_free_memory_and_disk_are_judged(monkeypatch, free, status):
    class Amount:
        def __init__(self):
            self.available = self.free = free

    monkeypatch.setattr(doctor.psutil, "virtual_memory", Amount)
    monkeypatch.setattr(doctor, "_container_memory_bytes", lambda: float("inf"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Amount())
    assert only(doctor._check_memory()).status == status
    assert only(doctor._check_disk()).status == status


def test_a_containers_limit_counts_as_the_machines_memory(monkeypatch):
    monkeypatch.setattr(doctor, "_container_memory_bytes", lambda: 1000)
    assert only(doctor._check_memory()).status == "broken"


def test_one_core_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert only(doctor._check_cores()).status == "warning"
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert only(doctor._check_cores()).status == "ok"


def test_a_whole_model_is_ok(model_dir):
    assert only(doctor._check_embedded_model()).status == "ok"


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (
            lambda d: (d / "model.safetensors").write_bytes(b"weighty"),
            "does not match its checksum",
        ),
        (lambda d: (d / "model.safetensors").unlink(), "is missing"),
        (lambda d: (d / "checksums.json").unlink(), "no embedded model"),
        (lambda d: (d / "checksums.json").write_text("{"), "is damaged"),
    ],
)
def test_a_damaged_model_is_broken_and_says_how_to_mend_it(model_dir, damage, detail):
    damage(model_dir)
    check = only(doctor._check_embedded_model())
    assert check.status == "broken"
    assert detail in check.detail
    assert check.fix


@pytest.mark.parametrize(("checkout", "status"), [(Path(), "broken"), (None, "warning")])
def test_missing_notebooks_matter_in_a_checkout(monkeypatch, checkout, status):
    def fail():
        raise FileNotFoundError("none")

    monkeypatch.setattr(doctor, "notebooks_dir", fail)
    monkeypatch.setattr(doctor, "checkout_dir", lambda: checkout)
    assert only(doctor._check_notebooks()).status == status


def test_notebooks_are_listed(monkeypatch, make_notebook):
    make_notebook("1", name="01_b.ipynb")
    monkeypatch.setattr(doctor, "notebooks_dir", lambda: make_notebook("1").parent)
    assert only(doctor._check_notebooks()).detail == "00, 01"


def test_missing_jupyter_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    check = only(doctor._check_jupyter())
    assert check.status == "warning"
    assert check.fix == "pip install jupyterlab ipykernel"


def test_a_torch_that_does_not_import_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert only(doctor._check_torch()).status == "broken"


def test_a_driver_without_a_usable_torch_is_a_warning(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert doctor._check_gpu().status == "ok"
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "nvidia-smi")
    assert doctor._check_gpu().status == "warning"


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_gpu_is_described_by_what_its_hardware_has(monkeypatch, has_bfloat16):
    import torch

    class Card:
        name, total_memory, major, minor = "Tesla T4", 16 * GIB, 7, 5

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: has_bfloat16 or including_emulation,
    )
    detail = doctor._check_gpu().detail
    assert "Tesla T4, 16.0 GiB, compute capability 7.5" in detail
    assert ("has bfloat16" in detail) is has_bfloat16


@pytest.mark.parametrize(
    ("name", "status", "detail"),
    [("cpu", "ok", "float32"), ("t4", "warning", "on cpu in float32"), ("tpu", "broken", "tpu")],
)
def test_the_profile_is_judged(monkeypatch, name, status, detail):
    monkeypatch.setattr("course_utils.models.profiles._has_cuda", lambda: False)
    monkeypatch.setenv("COURSE_PROFILE", name)
    check = only(doctor._check_profile())
    assert check.status == status
    assert detail in check.detail
