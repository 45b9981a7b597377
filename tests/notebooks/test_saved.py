"""What `course run --save` leaves in a notebook, and the pictures that README takes from there."""

import base64
import io
import re

import nbformat
import numpy as np
import pytest
from PIL import Image

from course_utils.cli.notebooks.files import (
    notebooks_dir,
    read_notebook,
    strip_volatile,
    tagged_pictures,
)
from course_utils.paths import checkout_dir
from course_utils.show.plotting import plot_bars

VIEW = "application/vnd.jupyter.widget-view+json"


def notebook_with(data: dict, tags: list[str] | None = None):
    output = nbformat.v4.new_output("display_data", data=data)
    cell = nbformat.v4.new_code_cell("x", outputs=[output], metadata={"tags": tags or []})
    return nbformat.v4.new_notebook(cells=[cell])


def picture() -> str:
    ax = plot_bars({"full": [0.9], "head": [0.5]}, "A finding", x="accuracy")
    ax.figure.savefig(buffer := io.BytesIO(), format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def test_a_finished_progress_bar_is_dropped_and_a_widget_becomes_a_line():
    bar = notebook_with({VIEW: {}, "text/plain": "  0%|          | 0/20 [00:00<?, ?step/s]"})
    assert strip_volatile(bar).cells[0].outputs == []
    widget = notebook_with({VIEW: {}, "text/plain": "VBox(children=())"})
    [output] = strip_volatile(widget).cells[0].outputs
    assert output.data == {"text/plain": "Interactive: run this cell to use it."}


def test_a_widget_that_brings_a_picture_leaves_it_behind():
    data = {"image/png": picture(), "text/plain": "It fits."}
    [output] = strip_volatile(notebook_with({VIEW: {}} | data)).cells[0].outputs
    assert set(output.data) == set(data)


def test_figures_lose_bytes_and_not_their_look():
    before = picture()
    [output] = strip_volatile(notebook_with({"image/png": before})).cells[0].outputs
    after = output.data["image/png"]
    assert len(after) < 0.6 * len(before)
    difference = pixels(after).astype(int) - pixels(before)
    assert abs(difference).mean() < 1
    [again] = strip_volatile(notebook_with({"image/png": after})).cells[0].outputs
    assert again.data["image/png"] == after


def test_pictures_are_found_by_their_tag():
    png = base64.b64encode(b"picture").decode()
    assert tagged_pictures(notebook_with({"image/png": png}, ["picture-a"])) == {"a": b"picture"}
    assert tagged_pictures(notebook_with({"image/png": png}, ["other"])) == {}


def test_the_pictures_in_readme_are_those_of_the_notebooks():
    root = checkout_dir()
    if root is None:
        pytest.skip("README is only in a checkout")
    shown = re.findall(r"\(docs/(\w+)\.png\)", (root / "README.md").read_text())
    pictures: dict[str, bytes] = {}
    for path in sorted(notebooks_dir().glob("[0-9][0-9]_*.ipynb")):
        pictures |= tagged_pictures(read_notebook(path))
    assert len(shown) == 4
    for name in shown:
        assert (root / "docs" / f"{name}.png").read_bytes() == pictures[name]
