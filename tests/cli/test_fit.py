"""`course fit`: a table and JSON of the same numbers; errors in one sentence."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from course_utils.cli import app
from course_utils.cli import fit as module
from course_utils.cli.fit import cells

ASKED = ("Llama-2-7B", "--kind", "style", "--examples", "1000", "--card", "A100-40")


def course_fit(*arguments: str):
    return CliRunner().invoke(app, ["fit", *arguments])


@pytest.fixture
def _wide(monkeypatch):
    monkeypatch.setattr(module, "console", Console(width=400))


@pytest.mark.usefixtures("_wide")
def test_json_parses_and_says_what_the_table_says():
    told = json.loads(course_fit(*ASKED, "--json").output)
    shown = course_fit(*ASKED).output
    assert told["verdict"] in shown
    lines = [[c.strip() for c in line.split("│")[1:-1]] for line in shown.splitlines()]
    wanted = [list(cells(row)) for row in told["left"]]
    assert len(wanted) > 5
    assert [line for line in lines if line in wanted] == wanted
    for row in told["out"]:
        for reason in row["reasons"]:
            assert any(
                line[:3] == [row["method"], reason["rule"], reason["words"]] for line in lines
            )
    assert all(note in shown for note in told["notes"])


def test_a_row_marks_what_is_estimated_recomputed_and_stood_in_for():
    quality = {"mean": 0.5, "low": 0.4, "high": 0.6, "recorded_as": "lora_r4"}
    row = {
        "method": "QLoRA r=8",
        "name": "qlora",
        "standing": "taken",
        "trained": 1000,
        "peak_bytes": 9e9,
        "is_checkpointed": True,
        "hours": 2.345,
        "quality": quality,
        "shown_by": "03_qlora_and_nf4.ipynb#evidence-quality",
    }
    assert cells(row) == (
        "QLoRA r=8",
        "taken",
        "1,000",
        "9.00 GB *",
        "~2.3",
        "0.50 (0.40 to 0.60), as lora_r4",
        "03 evidence-quality",
    )


@pytest.mark.parametrize(
    ("place", "wrong", "known"),
    [(0, "Lama", "Llama-2-7B"), (2, "poems", "instructions"), (6, "T5", "H100")],
)
def test_an_error_is_one_sentence(place, wrong, known):
    arguments = [*ASKED[:place], wrong, *ASKED[place + 1 :]]
    result = course_fit(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1
    assert known in result.output
