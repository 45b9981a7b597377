"""The chapters under the t4 profile: the same cells, a model of the Hub.

A run of each takes minutes, so that four stand for all, those that ask the Hub for most: the
first, four bits, a chat, and a data set. ``COURSE_HUB=all`` runs every one.
"""

import os
from pathlib import Path

import pytest
from nbclient.exceptions import CellExecutionError

from tests.hub.client import ROOT, hub_environment, run_notebook
from tests.hub.conftest import FOUR_BIT_MODEL, T4_MODEL

EXEMPLARY = ("00", "03", "07", "11")
CHAPTERS = [
    path
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if os.environ.get("COURSE_HUB") == "all" or path.name.startswith(EXEMPLARY)
]


def printed(notebook) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_a_notebook_sees_the_hub_and_not_the_settings_of_this_machine(
    hub, tmp_path, make_notebook, monkeypatch
):
    monkeypatch.setenv("COURSE_MODEL", "embedded")
    source = (
        "from course_utils.models.profiles import current_profile\n"
        "from course_utils.models import load_base_model\n"
        "profile = current_profile()\n"
        "print(profile.name, profile.model, type(load_base_model(profile)).__name__)"
    )
    path = make_notebook(source)
    before, start = path.read_bytes(), len(hub.requests)
    notebook = run_notebook(path, hub_environment(hub.endpoint, tmp_path / "home"), 120)
    assert f"t4 {T4_MODEL} Qwen3ForCausalLM" in printed(notebook)
    assert any("/content/" in request.path for request in hub.requests[start:])
    assert path.read_bytes() == before


def test_a_cell_that_fails_is_not_overlooked(hub, tmp_path, make_notebook):
    path = make_notebook("1 / 0")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run_notebook(path, hub_environment(hub.endpoint, tmp_path / "home"), 60)


@pytest.mark.slow
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_on_a_model_of_the_hub(path: Path, hub, tmp_path):
    start = len(hub.requests)
    run_notebook(path, hub_environment(hub.endpoint, tmp_path / "home"), 600)
    asked = {T4_MODEL, FOUR_BIT_MODEL} if path.name.startswith("03") else {T4_MODEL}
    if path.name.startswith("11"):
        asked.add("datasets/Salesforce/wikitext")
    for model in asked:
        assert any(model in request.path for request in hub.requests[start:])
