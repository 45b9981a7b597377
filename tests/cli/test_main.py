"""The `course` command: fast help, one-sentence errors, and JupyterLab on the first chapter."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from typer.testing import CliRunner

from course_utils.cli import app
from course_utils.cli.lab import has_screen, lab_arguments


def course(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_help_names_every_command():
    result = course("--help")
    assert result.exit_code == 0
    for command in (
        *("doctor", "fit", "lab", "progress", "quiz"),
        *("recipes", "reset", "review", "run"),
    ):
        assert command in result.output


@pytest.mark.parametrize(
    "arguments", ["--help", "run --help", "fit --help", "run --folder nowhere", "review"]
)
def test_what_needs_no_torch_does_not_import_it(arguments, state_dir):
    code = (
        "import sys\nfrom course_utils.cli import app\n"
        f"try:\n    app({arguments.split()!r})\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'nbclient'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "error",
    [ValueError("rank=0 must be in 1..64"), FileNotFoundError("no data"), OSError(28, "full")],
)
def test_expected_errors_are_one_sentence_without_a_traceback(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("course_utils.cli.notebooks.files.select_notebooks", fail)
    result = course("run", "--folder", ".")
    assert result.exit_code == 1
    assert result.stderr == f"error: {error}\n"
    assert result.stdout == ""


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise KeyError("bug")

    monkeypatch.setattr("course_utils.cli.notebooks.files.select_notebooks", fail)
    assert isinstance(course("run", "--folder", ".").exception, KeyError)


def test_an_unknown_command_and_option_are_refused():
    assert course("lora").exit_code == 2
    assert course("run", "--sav").exit_code == 2


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"DISPLAY": ""}, "linux", False),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "a b"}, "linux", False),
        ({}, "darwin", True),
        ({"SSH_CONNECTION": "a b"}, "darwin", False),
        ({}, "win32", True),
    ],
)
def test_a_screen_is_seen_where_there_is_one(environ, platform, expected):
    assert has_screen(environ, platform) is expected


def test_lab_arguments_open_the_chapter_inside_the_root(tmp_path):
    chapter = tmp_path / "notebooks" / "00_start.ipynb"
    arguments = lab_arguments(
        chapter, tmp_path, has_browser=False, ip="0.0.0.0", port=0, extra=["--debug"]
    )
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start.ipynb" in arguments
    assert f"--ServerApp.root_dir={tmp_path}" in arguments
    assert {"--no-browser", "--ServerApp.ip=0.0.0.0", "--ServerApp.port=0"} <= set(arguments)
    assert arguments[-1] == "--debug"
    with_browser = lab_arguments(chapter, tmp_path, has_browser=True)
    assert "--no-browser" not in with_browser
    assert not any("ip=" in a or "port=" in a for a in with_browser)


def test_lab_gives_a_browser_only_to_a_screen(make_notebook, monkeypatch):
    folder = str(make_notebook("1").parent)
    calls = []
    monkeypatch.setattr("course_utils.cli.lab.open_lab", calls.append)
    for screen in (True, False):
        monkeypatch.setattr("course_utils.cli.lab.has_screen", lambda screen=screen: screen)
        assert course("lab", "--folder", folder).exit_code == 0
        assert course("lab", "--no-browser", "--folder", folder, "--x=1").exit_code == 0
    assert ["--no-browser" in arguments for arguments in calls] == [False, True, True, True]
    assert ["--x=1" in arguments for arguments in calls] == [False, True, False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_lab_prints_an_address_that_answers_and_stops_on_ctrl_c(make_notebook, tmp_path):
    environ = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    for name in ("CONFIG", "DATA", "RUNTIME"):
        environ[f"JUPYTER_{name}_DIR"] = str(tmp_path / name)
    process = subprocess.Popen(
        [sys.executable, "-m", "course_utils.cli", "lab", "--folder", make_notebook("1").parent],
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    printed = []
    try:
        while "http://127.0.0.1" not in (printed or [""])[-1]:
            line = process.stdout.readline()
            assert line, "".join(printed)
            printed.append(line)
        address = printed[-1].strip()
        assert "/lab/tree/00_small.ipynb?token=" in address
        assert any("no screen" in line for line in printed)
        assert b"jupyter-config-data" in fetch(address)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        printed.append(process.communicate(timeout=60)[0])
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" not in "".join(printed)


def fetch(address: str, timeout_seconds: float = 60) -> bytes:
    """Get a page from a server that prints its address a moment before it listens."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=timeout_seconds) as response:
                return response.read()
        except urllib.error.URLError:
            assert time.monotonic() < deadline, f"{address} does not answer"
