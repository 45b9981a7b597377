"""The course on Colab's versions of the libraries; not in every run, for it installs a gigabyte.

    COURSE_COLAB=1 python -m pytest tests/arrival/test_colab_versions.py -s

The packages are those of the runtime's list where the registry has them. Python is this one, and
torch the course's own build: Colab's needs a card.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_utils.cli.pack import System, packages_for
from course_utils.paths import checkout_dir
from tests.arrival.test_colab import frozen

OWN = {"torch", "trl", "jupyterlab", "jupyterlab-server", "jupyter-lsp", "jupyter-builder"}
# What older versions of Colab's packages ask for and newer ones do not.
OLDER = ("decorator", "pickleshare", "backcall", "ipython-genutils", "nest-asyncio", "aiohttp")
OLDER += ("multidict", "yarl", "frozenlist", "aiosignal", "propcache", "aiohappyeyeballs", "pytz")
OLDER += ("entrypoints",)

pytestmark = [
    pytest.mark.colab,
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("COURSE_COLAB"), reason="set COURSE_COLAB=1: minutes"),
]


def requirements() -> list[str]:
    """Return every package that the course needs, at Colab's version where Colab has it."""
    there = frozen()
    python = "{}.{}".format(*sys.version_info)
    needed = {
        canonicalize_name(Requirement(line).name): line
        for line in packages_for(System.linux, python)
    }
    pinned = {n: f"{n}=={there[n]}" if n in there else line for n, line in needed.items()}
    older = {name: f"{name}=={there[name]}" if name in there else name for name in OLDER}
    return sorted({n: line for n, line in (older | pinned).items() if n not in OWN}.values())


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Return the Python of an environment with Colab's versions and the course."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    made = folder / "env" / "bin" / "python"
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    install = [made, "-m", "pip", "install", "--quiet", "--no-deps"]
    for what in ([*requirements(), "torch<2.14"], [str(checkout_dir())]):
        subprocess.run([*install, *what], check=True, env=environ)
    return made


@pytest.mark.parametrize("words", ["doctor", "run 00", "run 02"])
def test_check_up_and_chapters_run_there(python, tmp_path, words):
    environ = os.environ | {
        "COLAB_RELEASE_TAG": "release-colab_20260819",
        "COURSE_STATE_DIR": str(tmp_path / "state"),
        "PYTHONWARNINGS": "ignore",
    }
    environ.pop("PYTHONPATH", None)
    command = [python, "-m", "course_utils.cli", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
