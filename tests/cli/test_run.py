"""`course run`: fresh kernels, whole files, honest skipping, clear failures."""

import base64
import errno
import io
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from course_utils.cli import app
from course_utils.cli.notebooks import execution, records
from course_utils.cli.notebooks.execution import CellError, execute_notebook
from course_utils.cli.notebooks.files import (
    read_notebook,
    select_notebooks,
    strip_volatile,
    write_notebook,
)
from course_utils.cli.notebooks.records import (
    RunRecord,
    RunRecords,
    describe_surroundings,
    fingerprint,
)
from course_utils.cli.notebooks.runs import run_notebooks

MIB = 2**20


def course_run(notebook: Path, *arguments: str):
    """Call `course run` on one notebook's folder."""
    return CliRunner().invoke(app, ["run", "--folder", str(notebook.parent), *arguments])


def names_beside(notebook: Path) -> set[str]:
    return {file.name for file in notebook.parent.iterdir()}


# Executing


def test_cells_run_in_order_in_one_kernel_and_are_numbered_from_one(make_notebook):
    path = make_notebook("x = 1", "", "x += 1; print(x)", "x + 1")
    seen = []
    execution = execute_notebook(path, on_cell=lambda k, n: seen.append((k, n)))
    assert [cell.execution_count for cell in execution.node.cells] == [1, None, 2, 3]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert execution.node.cells[2].outputs[0].text == "2\n"
    assert execution.node.cells[3].outputs[0].data["text/plain"] == "3"
    assert execution.node.cells[3].outputs[0].execution_count == 3


def test_every_run_has_a_new_kernel_of_this_python_in_the_notebooks_folder(make_notebook):
    path = make_notebook(
        "import json, os, sys\n"
        "json.dump([sys.executable, os.getcwd(), os.getpid()], open('seen.json', 'w'))"
    )
    pids = set()
    for _ in range(2):
        execute_notebook(path)
        executable, folder, pid = json.loads((path.parent / "seen.json").read_text())
        assert Path(executable).resolve() == Path(sys.executable).resolve()
        assert Path(folder) == path.parent.resolve()
        pids.add(pid)
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


# Holds 200 MiB until a sample has been taken, or after some seconds for good.
HOLD = """
from pathlib import Path
held = bytearray([1]) * (200 * 2**20)
Path("held").touch()
for _ in range(10**7):
    if Path("sampled").exists():
        break
del held"""


def test_peak_memory_counts_what_the_kernel_and_its_child_held(make_notebook, monkeypatch):
    def peak_bytes(*sources: str) -> int:
        folder = make_notebook("import subprocess, sys", *sources).parent
        (folder / "child.py").write_text(HOLD)
        for name in ("held", "sampled"):
            (folder / name).unlink(missing_ok=True)

        def sample(root: psutil.Process) -> int:
            is_held = (folder / "held").exists()
            n_bytes = resident_bytes(root)
            if is_held:
                (folder / "sampled").touch()
            return n_bytes

        monkeypatch.setattr(execution, "_resident_bytes", sample)
        return execute_notebook(folder / "00_small.ipynb").peak_bytes

    resident_bytes = execution._resident_bytes
    idle = peak_bytes()
    assert 190 * MIB < peak_bytes(HOLD) - idle < 260 * MIB
    run_child = "subprocess.run([sys.executable, 'child.py'], check=True)"
    assert 190 * MIB < peak_bytes(run_child) - idle < 280 * MIB


def test_an_error_says_which_cell_and_why(make_notebook):
    with pytest.raises(CellError, match="cell 2 of 3 failed") as caught:
        execute_notebook(make_notebook("x = 1", "x / 0", "print('never')"))
    assert caught.value.source == "x / 0"
    assert "ZeroDivisionError" in caught.value.traceback


def test_a_dead_kernel_is_reported_with_its_last_words(make_notebook):
    die = "import os; os.write(2, b'out of luck'); os._exit(9)"
    with pytest.raises(CellError, match="cell 1 of 1 failed") as caught:
        execute_notebook(make_notebook(die))
    assert "kernel died" in caught.value.traceback


@pytest.mark.parametrize("text", ["not json", "{}", '{"nbformat": 4, "cells": 3}'])
def test_a_file_that_is_no_notebook_is_named(tmp_path, text):
    path = tmp_path / "00_broken.ipynb"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"00_broken\.ipynb is not a valid notebook"):
        read_notebook(path)


def test_a_terminal_sees_how_far_it_is_and_a_log_does_not_fill_with_bars(make_notebook, state_dir):
    path = make_notebook("1", "2")
    shown = {}
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
        (result,) = run_notebooks([path], RunRecords(state_dir / "runs.jsonl"), console, force=True)
        assert result.outcome == "green"
        shown[is_terminal] = console.file.getvalue()
    assert "cell 2 of 2" in shown[True]
    assert shown[False] == "00_small: running\n"


# Choosing


def test_numbers_choose_in_order_and_once(make_notebook):
    for name in ("02_c.ipynb", "00_a.ipynb", "11_d.ipynb", "notes.ipynb"):
        folder = make_notebook("1", name=name).parent
    names = [path.name for path in select_notebooks(folder)]
    assert names == ["00_a.ipynb", "02_c.ipynb", "11_d.ipynb"]
    assert [p.name for p in select_notebooks(folder, ["11", "2", "02"])] == [names[1], names[2]]


def test_an_unknown_number_lists_what_exists(make_notebook, state_dir):
    make_notebook("1", name="02_lora.ipynb")
    result = course_run(make_notebook("1"), "7", "x")
    assert result.exit_code == 1
    assert "no notebook 07, 0x: there are 00_small, 02_lora" in result.stderr
    assert "Traceback" not in result.output


def test_an_empty_folder_is_one_clear_sentence(tmp_path, state_dir):
    result = CliRunner().invoke(app, ["run", "--folder", str(tmp_path)])
    assert result.exit_code == 1
    assert "no notebook" in result.stderr


# Saving


def test_save_writes_outputs_and_nothing_that_changes_from_run_to_run(make_notebook, state_dir):
    path = make_notebook("print('hello')", "import ipywidgets; ipywidgets.IntSlider()")
    node = read_notebook(path)
    node.cells[0].metadata["execution"] = {"iopub.status.busy": "2020-01-01T00:00:00Z"}
    node.cells[0].metadata["tags"] = ["keep"]
    nbformat.write(node, path)
    assert course_run(path, "--save").exit_code == 0
    first = path.read_bytes()
    saved = read_notebook(path)
    assert saved.cells[0].outputs[0].text == "hello\n"
    assert saved.cells[0].metadata == {"tags": ["keep"]}
    assert "widgets" not in saved.metadata
    assert "widget-view" not in first.decode()
    assert "Interactive" in saved.cells[1].outputs[0].data["text/plain"]
    assert course_run(path, "--save", "--force").exit_code == 0
    assert path.read_bytes() == first
    assert names_beside(path) == {path.name}


def test_without_save_the_file_is_not_touched(make_notebook, state_dir):
    path = make_notebook("print('hello')")
    before = path.read_bytes()
    assert course_run(path).exit_code == 0
    assert path.read_bytes() == before


def test_a_failing_cell_is_shown_and_the_file_stays(make_notebook, state_dir):
    path = make_notebook("print('fine')", "answer = {}['colour']")
    make_notebook("print('runs all the same')", name="01_next.ipynb")
    before = path.read_bytes()
    result = course_run(path, "--save")
    assert result.exit_code == 1
    assert "00_small.ipynb: cell 2 of 2 failed" in result.output
    assert "KeyError: 'colour'" in result.output
    assert path.read_bytes() == before
    assert "runs all the same" in (path.parent / "01_next.ipynb").read_text().split("outputs")[1]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    make_notebook, monkeypatch, step, failure
):
    path = make_notebook("1")
    before = path.read_bytes()

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(failure)):
        write_notebook(path, strip_volatile(read_notebook(path)))
    assert path.read_bytes() == before
    assert names_beside(path) == {path.name}


def test_a_full_disk_is_one_clear_sentence(make_notebook, state_dir, monkeypatch):
    path = make_notebook("1")
    replace = os.replace

    def fail(source, target):
        if Path(target) == path:
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    result = course_run(path, "--save")
    assert result.exit_code == 1
    assert "the disk is full" in result.stderr
    assert "Traceback" not in result.output


# Skipping


def test_only_what_has_changed_runs_again(make_notebook, state_dir):
    path = make_notebook("open('runs', 'a').write('x')")

    def count_runs(*arguments):
        result = course_run(path, *arguments)
        assert result.exit_code == 0
        return len((path.parent / "runs").read_text()), result.output

    assert count_runs()[0] == 1
    n_runs, output = count_runs()
    assert n_runs == 1
    assert "unchanged" in output
    assert count_runs("--force")[0] == 2
    assert count_runs("--save")[0] == 3, "the file has no outputs yet"
    assert count_runs("--save")[0] == 3
    assert count_runs()[0] == 3
    node = read_notebook(path)
    node.cells[0].outputs = []
    nbformat.write(node, path)
    assert count_runs()[0] == 3
    assert count_runs("--save")[0] == 4, "the outputs are not those of the last run"


def test_a_failed_notebook_runs_again(make_notebook, state_dir):
    path = make_notebook("open('runs', 'a').write('x'); 1 / 0")
    for n_runs in (1, 2):
        assert course_run(path).exit_code == 1
        assert len((path.parent / "runs").read_text()) == n_runs


def test_the_fingerprint_changes_with_what_outputs_depend_on(make_notebook, tmp_path, monkeypatch):
    def take(path):
        return fingerprint(path, describe_surroundings())

    data, package = tmp_path / "data", tmp_path / "package"
    for folder in (data, package):
        folder.mkdir()
    (data / "tasks.jsonl").write_text("1")
    (package / "lora.py").write_text("rank = 8")
    monkeypatch.setattr(records, "data_dir", lambda: data)
    monkeypatch.setattr(records, "package_dir", lambda: package)
    path = make_notebook("x = 1")
    prints = [take(path)]

    node = read_notebook(path)
    node.cells.insert(0, nbformat.v4.new_markdown_cell("prose"))
    node.cells[1].outputs = [nbformat.v4.new_output("stream", text="1")]
    nbformat.write(node, path)
    assert take(path) == prints[0]

    node.cells[1].metadata["tags"] = ["exercise"]
    nbformat.write(node, path)
    prints.append(take(path))
    prints.append(take(make_notebook("x = 2")))
    (data / "tasks.jsonl").write_text("2")
    prints.append(take(path))
    (package / "lora.py").write_text("rank = 4")
    prints.append(take(path))
    monkeypatch.setenv("COURSE_PROFILE", "t4")
    prints.append(take(path))
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"seconds": 1}}'])
def test_damaged_records_count_as_none(tmp_path, text):
    file = tmp_path / "runs.jsonl"
    file.write_text(text)
    records = RunRecords(file)
    assert records.find(tmp_path / "00_a.ipynb") is None
    record = RunRecord(fingerprint="f", seconds=1.5, peak_bytes=3, saved_sha256=None)
    records.add(tmp_path / "00_a.ipynb", record)
    assert RunRecords(file).find(tmp_path / "00_a.ipynb") == record


# Stopping


TELL_ITS_NUMBER = "import os; pipe = open('pid', 'w'); pipe.write(str(os.getpid())); pipe.close()"
# Python imports a module `sitecustomize` when it starts.
AT_START = f"import sys\nif 'ipykernel_launcher' in sys.orig_argv:\n    {TELL_ITS_NUMBER}"
WAIT_FOR_EVER = "import threading; threading.Event().wait()"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize(
    ("cells", "at_start"),
    [([TELL_ITS_NUMBER, WAIT_FOR_EVER], ""), ([WAIT_FOR_EVER], AT_START)],
    ids=["in a cell", "while the kernel starts"],
)
def test_ctrl_c_leaves_whole_files_and_no_kernel(
    make_notebook, tmp_path, state_dir, cells, at_start
):
    path = make_notebook(*cells)
    (tmp_path / "sitecustomize.py").write_text(at_start)
    os.mkfifo(path.parent / "pid")
    pipe = os.open(path.parent / "pid", os.O_RDONLY | os.O_NONBLOCK)
    before = path.read_bytes()
    command = [sys.executable, "-m", "course_utils.cli", "run", "--save"]
    process = subprocess.Popen(
        [*command, "--folder", str(path.parent)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert select.select([pipe], [], [], 60)[0], "the kernel does not say who it is"
    kernel = psutil.Process(int(os.read(pipe, 20)))
    os.close(pipe)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopped; every notebook file is whole" in output
    assert "Traceback" not in output
    assert path.read_bytes() == before
    assert names_beside(path) == {path.name, "pid"}
    kernel.wait(timeout=60)


def test_a_figure_keeps_its_look_in_fewer_colours():
    buffer = io.BytesIO()
    with plt.style.context("default"):
        figure, ax = plt.subplots(figsize=(4, 3))
        for k in range(8):
            ax.plot([0, 1], [k, 8 - k], color=f"C{k}", linewidth=6)
        figure.savefig(buffer, format="png")
    plt.close(figure)
    node = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("plot()")
    png = base64.b64encode(buffer.getvalue()).decode()
    cell.outputs = [nbformat.v4.new_output("display_data", data={"image/png": png})]
    node.cells = [cell]
    smaller = strip_volatile(node).cells[0].outputs[0].data["image/png"]
    assert len(smaller) < len(png)
    images = [Image.open(io.BytesIO(base64.b64decode(p))).convert("RGB") for p in (png, smaller)]
    difference = np.abs(np.subtract(*(np.asarray(image, dtype=float) for image in images)))
    assert difference.mean() < 1
    assert np.percentile(difference, 99) < 20
