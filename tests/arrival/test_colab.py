"""Arriving on Colab: the course adds packages and changes none, and the notebooks find it."""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from course_utils.cli import app, doctor
from course_utils.cli.notebooks.files import notebooks_dir, read_notebook, select_notebooks
from course_utils.cli.notebooks.setup_cell import (
    SETUP_TAG,
    check_address,
    read_address,
    setup_source,
    trl_pin,
    uses_trl,
    with_address,
    with_setup,
)
from course_utils.paths import checkout_dir

ROOT = checkout_dir()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FREEZE = Path(__file__).parent / "colab-2026-08-gpu.txt"
COLAB_PYTHON = {"python_version": "3.13", "python_full_version": "3.13.5"}
URL = "https://github.com/owner/name"


def frozen() -> dict[str, str]:
    """Return the version of every package that the Colab runtime has."""
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", FREEZE.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def conflicts(requirements: list[str]) -> tuple[dict[str, str], set[str]]:
    """Return what an install would have to change, and what it would add.

    What is added is looked up among the installed packages, whose own requirements follow.
    """
    there, added, changed = frozen(), set(), {}
    queue = [("course-utils", line) for line in requirements]
    while queue:
        who, line = queue.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": "", **COLAB_PYTHON}):
            continue
        name = canonicalize_name(requirement.name)
        if name in there:
            if not requirement.specifier.contains(there[name], prereleases=True):
                changed[name] = f"{who} needs {requirement}, there is {there[name]}"
        elif name not in added:
            added.add(name)
            queue += [(name, further) for further in metadata.requires(name) or []]
    return changed, added


def test_installing_the_course_there_adds_and_never_changes():
    changed, added = conflicts(PROJECT["dependencies"])
    assert changed == {}
    assert added == {
        "adjusttext",
        "bitsandbytes",
        "colorama",
        "fsrs",
        "portalocker",
        "sacrebleu",
    }


def test_trl_alone_would_change_what_is_there():
    changed, _ = conflicts(PROJECT["optional-dependencies"]["trl"])
    assert "datasets" in changed


def test_a_bound_that_colab_does_not_meet_is_seen():
    assert set(conflicts(["rich>=14", "numpy>=2.0"])[0]) == {"rich"}


@pytest.mark.parametrize("path", select_notebooks(notebooks_dir()), ids=lambda path: path.stem[:2])
def test_every_notebook_begins_with_the_set_up_cell(path):
    node = read_notebook(path)
    pyproject = ROOT / "pyproject.toml"
    assert SETUP_TAG in node.cells[1].metadata["tags"]
    assert not with_setup(node, path.name, read_address(pyproject), trl_pin(pyproject)), (
        "run `course address` in the checkout"
    )


def run_cell(source, monkeypatch, *missing) -> list[str]:
    """Run a set-up cell where these packages are missing; return what it would install."""
    from IPython.core.inputtransformer2 import TransformerManager

    installs = []

    class Shell:
        def run_line_magic(self, name, line):
            installs.append(f"{name} {line}")

    find = lambda name: None if name in missing else object()  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", find)
    exec(TransformerManager().transform_cell(source), {"get_ipython": Shell})
    return installs


def test_the_set_up_cell_installs_what_is_missing_and_nothing_else(monkeypatch):
    source = setup_source(URL, "1.12.*")
    assert run_cell(source, monkeypatch) == []
    assert run_cell(source, monkeypatch, "trl") == ['pip install --quiet --no-deps "trl==1.12.*"']
    course = f'pip install --quiet "course-utils @ git+{URL}"'
    assert run_cell(source, monkeypatch, "course_utils") == [course]
    assert run_cell(setup_source(URL, None), monkeypatch, "trl") == []


def test_without_an_address_it_says_what_to_do(monkeypatch):
    source = setup_source(None, None)
    assert run_cell(source, monkeypatch) == []
    with pytest.raises(ModuleNotFoundError, match="pip install FOLDER"):
        run_cell(source, monkeypatch, "course_utils")


def small_notebook(*sources):
    cells = [new_markdown_cell("# 07 · Tuning\n\n| a | b |\n|---|---|"), new_markdown_cell("Run:")]
    cells += [new_code_cell(source, execution_count=k) for k, source in enumerate(sources, 1)]
    return new_notebook(cells=cells)


def test_set_up_is_put_in_once_and_follows_the_address():
    node = small_notebook("from trl import SFTTrainer")
    assert uses_trl(node)
    assert with_setup(node, "07_a.ipynb", None, "1.12.*")
    assert [c.execution_count for c in node.cells if c.cell_type == "code"] == [1, 2]
    assert "Open in Colab" not in node.cells[0].source
    assert not with_setup(node, "07_a.ipynb", None, "1.12.*")
    for url in (URL, "https://github.com/other/place"):
        assert with_setup(node, "07_a.ipynb", url, "1.12.*")
        assert not with_setup(node, "07_a.ipynb", url, "1.12.*")
        assert node.cells[0].source.count("Open in Colab") == 1
        page = url.replace("https://github.com", "https://colab.research.google.com/github")
        assert f"({page}/blob/main/notebooks/07_a.ipynb)\n\n| a" in node.cells[0].source
        assert url in node.cells[1].source
    assert with_setup(node, "07_a.ipynb", "https://example.org/a/b", "1.12.*")
    assert "Open in Colab" not in node.cells[0].source
    assert len(node.cells) == 4


def test_a_notebook_without_a_title_is_refused():
    with pytest.raises(ValueError, match=r"07_a.ipynb must begin with a cell with its title"):
        with_setup(new_notebook(cells=[new_code_cell("1")]), "07_a.ipynb", None, "1.12.*")


def test_the_address_stands_once_in_pyproject():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    once = with_address(text, URL + "/")
    twice = with_address(once, "https://github.com/other/place.git")
    for changed, url in ((once, URL), (twice, "https://github.com/other/place")):
        project = tomllib.loads(changed)["project"]
        assert project.pop("urls") == {"Repository": url}
        assert project == {name: v for name, v in PROJECT.items() if name != "urls"}


@pytest.mark.parametrize("url", ["github.com/a/b", "https://x", "https://a/b c", 'https://a/b"', 5])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match=r"must be like https://github\.com/owner/name"):
        check_address(url)


def test_the_command_writes_the_address_into_a_copy_of_the_checkout(tmp_path, monkeypatch):
    from shutil import copytree

    folder = tmp_path / "notebooks"
    copytree(notebooks_dir(), folder)
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    monkeypatch.setattr("course_utils.paths.checkout_dir", lambda: tmp_path)
    result = CliRunner().invoke(app, ["address", URL, "--folder", str(folder)])
    assert result.exit_code == 0, result.output
    assert f"{len(select_notebooks(folder))} notebooks changed" in result.output
    assert all(f"git+{URL}" in path.read_text() for path in select_notebooks(folder))
    result = CliRunner().invoke(app, ["address", "--folder", str(folder)])
    assert f"address: {URL}; 0 notebooks changed" in result.output


def test_the_check_up_knows_colab(monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260819")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert next(doctor._check_jupyter()).status == "ok"
    versions = frozen() | {canonicalize_name("course-utils"): "0.2.0"}

    def version(name):
        found = versions.get(canonicalize_name(name))
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(sys, "version_info", (3, 13, 5))
    assert next(doctor._check_python()).status == "ok"
    fixes = {check.name: check.fix for check in doctor._check_packages()}
    assert {"jupyterlab", "ipykernel"} & set(fixes) == set()
    assert fixes["trl"] == "pip install --no-deps 'trl==1.12.*'"
    changing = [fix for fix in fixes.values() if re.search(r"torch|numpy", fix)]
    assert changing == []


def test_on_colab_no_fix_changes_torch_or_numpy(monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260819")
    for name in ("torch", "numpy"):
        check = doctor._check_package(Requirement(f"{name}>=999"), {name: "1000"})
        assert check.status == "warning"
        assert "pip" not in check.fix


def test_chapters_without_trl_need_none_of_it():
    """What chapters 00 to 06 import works where TRL is not installed."""
    import subprocess

    imports = set()
    for path in select_notebooks(notebooks_dir()):
        node = read_notebook(path)
        if not uses_trl(node):
            code = "\n".join(c.source for c in node.cells if c.cell_type == "code")
            imports |= set(re.findall(r"^from course_utils[\w.]* import \w.*$", code, re.MULTILINE))
    lines = "\n".join(sorted(imports))
    program = f"import sys\nsys.modules['trl'] = None\n{lines}\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert len(imports) > 50
    assert done.returncode == 0, done.stderr
