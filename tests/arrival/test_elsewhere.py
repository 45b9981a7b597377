"""Codespaces and GitHub Actions: their files are what they should be.

Neither place was to be had when this was written: the files are checked, and were not run.
"""

import json
import re
import tomllib

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from course_utils.paths import checkout_dir

ROOT = checkout_dir()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = SpecifierSet(PROJECT["requires-python"])
# Of https://containers.dev/implementors/json_reference, what an image without a Dockerfile may say.
CONTAINER_KEYS = {"name", "image", "hostRequirements", "postCreateCommand", "customizations"}


def test_the_devcontainer_installs_as_make_does():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert set(container) <= CONTAINER_KEYS
    assert Version(container["image"].rpartition(":")[2]) in PYTHONS
    target = container["postCreateCommand"].removeprefix("make ")
    assert f"INSTALLED := {target}\n" in (ROOT / "Makefile").read_text()
    assert re.fullmatch(r"\d+gb", container["hostRequirements"]["memory"])
    settings = container["customizations"]["vscode"]["settings"]
    assert (
        f"RUN := {settings['python.defaultInterpreterPath']}\n" in (ROOT / "Makefile").read_text()
    )


def test_the_workflow_calls_the_ci_script_and_nothing_else():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert set(workflow) == {"name", True, "permissions", "jobs"}  # YAML reads `on` as True.
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 90
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in uses)
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    python = next(step["with"] for step in job["steps"] if "python" in step.get("uses", ""))
    assert Version(python["python-version"]) in PYTHONS
    assert (ROOT / python["cache-dependency-path"]).is_file()
