"""How long the first cell of a chapter takes, in a fresh process."""

import subprocess
import sys
import time

import nbformat

from course_utils.cli.notebooks.setup_cell import SETUP_TAG
from course_utils.paths import data_dir
from tests.benchmarks.contest import Contest

CHAPTER = "02_lora.ipynb"


def first_cell(chapter: str = CHAPTER) -> Contest:
    """First cells a second of a chapter; PyTorch alone is what no course can be faster than."""
    notebook = nbformat.read(data_dir().parent / "notebooks" / chapter, as_version=4)
    code = next(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and SETUP_TAG not in cell.metadata.get("tags", [])
    )

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        return 1 / (time.perf_counter() - start)

    return {"ours, first cell": lambda: run(code), "import torch": lambda: run("import torch")}
