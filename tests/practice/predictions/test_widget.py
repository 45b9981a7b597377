"""The widget's logic without a browser, and what is left of it without widgets."""

import pytest

from course_utils.cli.notebooks.execution import execute_notebook
from course_utils.cli.notebooks.files import strip_volatile
from course_utils.practice import predict
from course_utils.practice.predictions import widget as module
from course_utils.practice.predictions.record import load_entries

LINES = ("alpha / r", "alpha / sqrt r", "both")


@pytest.fixture(autouse=True)
def shown(monkeypatch, state_dir):
    """Begin a session in which nothing was asked; return what `predict` shows."""
    outputs = []
    monkeypatch.setattr(module, "_current", {})
    monkeypatch.setattr(module, "display", outputs.append)
    return outputs


def ask_lines():
    return predict("02-scaling", "Which line rises?", LINES)


def ask_factor():
    return predict("02-rates", "By what factor?", unit="times")


def fill(prediction, answer, confidence):
    prediction.answer_input.value, prediction.confidence_input.value = answer, confidence
    prediction.commit_button.click()
    return prediction


def test_an_option_is_chosen_and_committed(shown):
    prediction = fill(ask_lines(), "both", 40)
    assert shown == [prediction]
    assert "You said both (40 % sure)." in prediction.message
    assert prediction.commit_button not in prediction._controls.children
    assert repr(prediction.check("alpha / sqrt r")).endswith("Not right.")
    assert [entry.answer for entry in load_entries()] == ["both"]


@pytest.mark.parametrize("typed", ["2.5", "2.5 times", " 2.5e0 "])
def test_a_number_is_typed_with_or_without_its_unit(typed):
    prediction = fill(ask_factor(), typed, 10)
    assert "You said 2.5 times (10 % sure)." in prediction.message
    assert "Right." in repr(prediction.check(3.3))


@pytest.mark.parametrize(
    ("ask", "answer", "confidence", "remark"),
    [
        (ask_lines, None, 50, "Give an answer first."),
        (ask_factor, "", 50, "Give an answer first."),
        (ask_lines, "both", None, "Choose how sure you are first."),
        (ask_factor, "<b>much", 50, "is not a number"),
        (ask_factor, "3 GB", 50, "asked in times"),
    ],
)
def test_what_is_missing_is_told_and_can_be_mended(ask, answer, confidence, remark):
    prediction = fill(ask(), answer, confidence)
    assert remark in prediction.message
    assert 'role="alert"' in prediction.message
    assert "<b>much" not in prediction.message
    assert not prediction.is_committed
    assert fill(prediction, "both" if ask is ask_lines else "3", 50).is_committed


def test_a_choice_is_told_before_it_is_committed():
    prediction = ask_lines()
    prediction.answer_input.value = "both"
    assert "Chosen: both." in prediction.message
    prediction.confidence_input.value = 40
    assert "Chosen: both, 40 % sure." in prediction.message
    assert 'role="status"' in prediction.message


def test_every_control_has_a_name():
    for prediction in (ask_lines(), ask_factor()):
        assert all(control.description for control in prediction._controls.children)


def test_a_cell_that_runs_again_keeps_an_open_answer_and_after_the_result_begins_anew(shown):
    first = fill(ask_factor(), "3", 80)
    assert ask_factor() is first
    assert shown == [first, first]
    first.check(3.3)
    second = fill(ask_factor(), "3.3", 100)
    assert second is not first
    assert "not kept" in repr(second.check(3.3))
    assert [entry.answer for entry in load_entries()] == [3]


def test_a_result_that_was_seen_is_known_however_often_the_cell_runs_or_is_edited():
    ask_factor().check(3.3)
    predict("02-rates", "In other words?", unit="times")
    assert "not kept" in repr(fill(ask_factor(), "3.3", 100).check(3.3))


def test_without_widgets_it_is_one_line():
    for prediction, line in (
        (ask_lines(), "Predict: Which line rises? (alpha / r | alpha / sqrt r | both)"),
        (ask_factor(), "Predict: By what factor? (a number; unit: times)"),
        (predict("02-n", "How many?", unit=""), "Predict: How many? (a number)"),
    ):
        assert repr(prediction) == prediction._repr_mimebundle_()["text/plain"] == line
        fill(prediction, *(("both", 40) if prediction.question.options else ("3", 40)))
        assert repr(prediction) == line


def test_an_executed_notebook_holds_lines_and_no_state_of_a_reader(make_notebook, state_dir):
    fill(ask_factor(), "3", 80).check(3.3)
    before = (state_dir / "predictions.jsonl").read_bytes()
    path = make_notebook(
        "from course_utils.practice import calibration, predict\n"
        "factor = predict('02-rates', 'By what factor?', unit='times')",
        "factor.check(3.3)",
        "calibration('02')",
    )
    node = strip_volatile(execute_notebook(path).node)
    assert [[o.data["text/plain"] for o in cell.outputs] for cell in node.cells] == [
        ["Predict: By what factor? (a number; unit: times)"],
        ["Measured: 3.3 times. You made no prediction."],
        ["There is no prediction of yours on record for chapter 02."],
    ]
    assert {kind for cell in node.cells for o in cell.outputs for kind in o.data} == {
        "text/html",
        "text/plain",
    }
    assert (state_dir / "predictions.jsonl").read_bytes() == before
