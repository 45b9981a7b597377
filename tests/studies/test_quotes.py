"""Prose quotes a record, and the check finds where the two have parted."""

import json

import pytest
from typer.testing import CliRunner

from course_utils.paths import data_dir
from course_utils.studies import runner
from course_utils.studies.__main__ import app
from course_utils.studies.quotes import Quote, drifted, quotes_of

NOTEBOOKS = sorted((data_dir().parent / "notebooks").glob("*.ipynb"))
OF = {"study": "small", "task": "dialect"}


@pytest.fixture
def record(tmp_path, monkeypatch):
    rows = [
        {
            "task": "dialect",
            "method": method,
            "learning_rate": rate,
            "seed": seed,
            "n_examples": None,
            "validation": -rate,
            "test": start + rate + 0.1 * seed,
        }
        for method, start in (("lora", -4.0), ("dora", -3.5))
        for rate in (1e-2, 3e-2)
        for seed in (0, 1, 2)
    ]
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / "small.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ({"command": "x"}, *rows)))
    monkeypatch.setattr(runner, "data_dir", lambda: tmp_path)
    return tmp_path


def notebook(folder, source: str, *entries: dict):
    path = folder / "01_some.ipynb"
    cell = {"cell_type": "markdown", "source": [source], "metadata": {"quotes": list(entries)}}
    path.write_text(json.dumps({"cells": [cell]}))
    return path


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"method": "lora"}, "−3.89"),
        ({"method": "lora", "of": "low"}, "−4.14"),
        ({"method": "lora", "of": "high"}, "−3.64"),
        ({"method": "lora", "of": "least"}, "−3.99"),
        ({"method": "lora", "of": "most", "form": "{:.1f}"}, "−3.8"),
        ({"method": "lora", "of": "rate", "form": "{:g}"}, "0.01"),
        ({"method": "lora", "of": "n_rates", "form": "{}"}, "2"),
        ({"method": "lora", "what": "seed", "form": "{:.0%}"}, "100 %"),
        ({"method": "dora", "of": "ahead", "against": "lora", "form": "{:+.2f}"}, "+0.50"),
        ({"method": "dora", "of": "verdict", "against": "lora"}, "better"),
        ({"method": "dora", "of": "verdict", "against": "lora", "margin": 1}, "equal within 1"),
    ],
)
def test_a_number_is_computed_from_the_record(record, entry: dict, text: str):
    assert Quote(**OF, **entry).text == text


def test_a_sentence_that_parted_from_its_record_is_named(record):
    entry = OF | {"method": "lora"}
    assert list(drifted([notebook(record, "LoRA reached −3.89 there.", entry)])) == []
    assert list(drifted([notebook(record, "LoRA reached -3.89.", entry)])) == []
    for wrong in ("LoRA reached −3.88.", "3.89", "−3.891", "−13.89", "x-3.89"):
        (line,) = drifted([notebook(record, wrong, entry)])
        assert line.startswith("01_some.ipynb, cell 0: mean of test, lora in small, is −3.89")


def test_a_quote_that_means_nothing_is_refused(record):
    cell = {"metadata": {"quotes": [OF | {"method": "lora", "wat": 1}]}}
    with pytest.raises(ValueError, match="a quote has no wat"):
        quotes_of(cell)
    with pytest.raises(ValueError, match="of='median' must be one of"):
        Quote(**OF, method="lora", of="median")
    with pytest.raises(ValueError, match="neither or both compare"):
        Quote(**OF, method="lora", of="ahead")
    with pytest.raises(ValueError, match="small has no runs of magic on dialect"):
        _ = Quote(**OF, method="magic").text


def test_the_command_fails_where_they_differ(record, monkeypatch):
    path = notebook(record, "LoRA reached −3.88.", OF | {"method": "lora"})
    monkeypatch.setattr("course_utils.studies.__main__.notebooks", lambda: [path])
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 1
    assert "is −3.89" in result.output
    notebook(record, "LoRA reached −3.89.", OF | {"method": "lora"})
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 0
    assert "1 quoted number" in result.output


def test_the_chapters_quote_the_records():
    assert list(drifted(NOTEBOOKS)) == []
