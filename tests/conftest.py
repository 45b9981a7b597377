"""What every test relies on: no network, the `cpu` profile, and all the cores there are."""

import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

_LOCAL_HOSTS = ["127.0.0.1", "::1", "localhost"]


def _count_cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


# Kernels, servers and other children of the tests inherit these; set before torch is imported.
os.environ["COURSE_PROFILE"] = "cpu"
os.environ.pop("COURSE_MODEL", None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", str(_count_cores()))
# pytest-socket guards this process only: elsewhere, all that is not local meets a closed port.
for _scheme in ("http", "https", "all"):
    for _name in (f"{_scheme}_proxy", f"{_scheme}_proxy".upper()):
        os.environ[_name] = "http://127.0.0.1:9"
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(_LOCAL_HOSTS)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Block every socket that leaves the machine."""
    config.option.allow_hosts = _LOCAL_HOSTS
    config.option.allow_unix_socket = True


@pytest.fixture
def make_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a notebook of these code cells into a new folder."""

    def make(*sources: str, name: str = "00_small.ipynb") -> Path:
        path = tmp_path / "notebooks" / name
        path.parent.mkdir(exist_ok=True)
        node = nbformat.v4.new_notebook()
        for k, source in enumerate(sources):
            node.cells.append(nbformat.v4.new_code_cell(source, id=f"cell-{k}"))
        nbformat.write(node, path)
        return path

    return make


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `course run` remember its runs in a folder of this test."""
    folder = tmp_path / "state"
    monkeypatch.setenv("COURSE_STATE_DIR", str(folder))
    return folder
