"""Notebooks, pictures and records as files: whole or not at all, whatever is in them."""

import base64
import io
import json
import os
from threading import Thread

import nbformat
import pytest
from PIL import Image

from course_utils.cli.notebooks.files import (
    read_notebook,
    select_notebooks,
    strip_volatile,
    tagged_pictures,
    write_notebook,
)
from course_utils.cli.notebooks.records import RunRecord, RunRecords
from course_utils.cli.notebooks.runs import _refresh_pictures


def png(mode: str = "RGB") -> bytes:
    Image.new(mode, (20, 10)).save(buffer := io.BytesIO(), format="PNG")
    return buffer.getvalue()


def notebook_with(picture: object, *tags: str):
    output = nbformat.from_dict(
        {"output_type": "display_data", "metadata": {}, "data": {"image/png": picture}}
    )
    cell = nbformat.v4.new_code_cell("1", metadata={"tags": list(tags)}, outputs=[output])
    return nbformat.v4.new_notebook(cells=[cell])


@pytest.mark.parametrize("number", ["", None, 0, ["00"]])
def test_what_is_no_number_chooses_no_chapter(make_notebook, number):
    folder = make_notebook("1").parent
    with pytest.raises(ValueError, match=r"must be a number as in 00_start.ipynb"):
        select_notebooks(folder, [number])


def test_two_notebooks_of_one_number_are_both_chosen(make_notebook):
    paths = [make_notebook("1", name=name) for name in ("00_a.ipynb", "00_b.ipynb")]
    assert select_notebooks(paths[0].parent) == select_notebooks(paths[0].parent, ["0"]) == paths


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**5,
        '{"a":' * 10**5,
        "[]",
        '{"nbformat": "4"}',
        '{"nbformat": 1e999}',
        "9" * 5000,
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1]}',
        "\ufeff{}",
    ],
)
def test_damage_of_any_kind_is_one_sentence(tmp_path, text):
    (tmp_path / "00_a.ipynb").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"00_a.ipynb is not a valid notebook: ") as caught:
        read_notebook(tmp_path / "00_a.ipynb")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("picture", ["AAAA", "no base64", base64.b64encode(png()[:45]).decode()])
def test_a_picture_that_is_none_is_refused(picture):
    with pytest.raises(ValueError, match=r"a picture of the notebook is no PNG"):
        strip_volatile(notebook_with(picture))


@pytest.mark.parametrize("name", ["../outside", "a/b", "/tmp/a", "a.b", "", "a\nb", "..", "\u00e9"])
def test_a_tag_leads_nowhere_but_to_its_picture(tmp_path, name):
    picture = base64.b64encode(png()).decode()
    with pytest.raises(ValueError, match=r"^tag .* must be letters, digits, - and _"):
        tagged_pictures(notebook_with(picture, f"picture-{name}"))
    assert tagged_pictures(notebook_with(picture, "other", "picture-a_1")) == {"a_1": png()}


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_picture_is_the_old_one_or_the_new_one(tmp_path, monkeypatch, step):
    (tmp_path / "a.png").write_bytes(b"old")
    node = notebook_with(base64.b64encode(png()).decode(), "picture-a")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(OSError, match=r"a.png was not written: the disk is full"):
            _refresh_pictures(node, tmp_path)
    assert (tmp_path / "a.png").read_bytes() == b"old"
    _refresh_pictures(node, tmp_path)
    assert (tmp_path / "a.png").read_bytes() == png()
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_notebook_is_written_as_it_is_read(make_notebook):
    path = make_notebook("x = 1")
    write_notebook(path, read_notebook(path))
    first = path.read_bytes()
    assert first.endswith(b"}\n")
    write_notebook(path, read_notebook(path))
    assert path.read_bytes() == first


def record(seconds: float) -> RunRecord:
    return RunRecord(fingerprint="f", seconds=seconds, peak_bytes=3, saved_sha256=None)


def test_runs_at_the_same_time_lose_no_record(tmp_path):
    file = tmp_path / "state" / "runs.jsonl"
    both = [RunRecords(file) for _ in range(2)]

    def add(part: int) -> None:
        for k in range(20):
            both[part].add(tmp_path / f"{part}_{k}.ipynb", record(k))

    threads = [Thread(target=add, args=(part,)) for part in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = RunRecords(file)
    assert all(
        found.find(tmp_path / f"{p}_{k}.ipynb") == record(k) for p in (0, 1) for k in range(20)
    )
    found.add(tmp_path / "0_0.ipynb", record(99))
    assert RunRecords(file).find(tmp_path / "0_0.ipynb") == record(99)


def test_a_damaged_line_costs_no_other(tmp_path):
    file = tmp_path / "runs.jsonl"
    for k in range(3):
        RunRecords(file).add(tmp_path / f"{k}.ipynb", record(k))
    lines = file.read_text().splitlines()
    wrong = json.dumps(json.loads(lines[1]) | {"seconds": "long"})
    file.write_text("\n".join([lines[0], "[" * 10**5, wrong, "\0\0", lines[2], lines[1][:30]]))
    RunRecords(file).add(tmp_path / "3.ipynb", record(3))
    found = [RunRecords(file).find(tmp_path / f"{k}.ipynb") for k in range(4)]
    assert found == [record(0), None, record(2), record(3)]
