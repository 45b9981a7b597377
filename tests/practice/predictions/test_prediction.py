"""A prediction, its comparison with the result, and what is kept of it."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from course_utils.practice.predictions.prediction import Prediction, Question

LINES = Question(id="02-scaling", text="Which rises?", options=("alpha / r", "alpha / sqrt r"))
FACTOR = Question(id="02-rates", text="By what factor?", unit="times")


def record(folder):
    path = folder / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def committed(question, answer, confidence=80, **state):
    prediction = Prediction(question, **state)
    prediction.commit(answer, confidence)
    return prediction


@pytest.mark.parametrize(("question", "value"), [(LINES, "alpha / r"), (FACTOR, 3.3)])
def test_without_a_commitment_the_result_shows_and_nothing_is_written(state_dir, question, value):
    said = repr(Prediction(question).check(value))
    assert said == f"Measured: {question.say(value)}. You made no prediction."
    assert not state_dir.exists()


@pytest.mark.parametrize(
    ("answer", "value", "limits", "is_right"),
    [
        (2, 4, {}, True),
        (8, 4, {}, True),
        (1.99, 4, {}, False),
        (8.01, 4, {}, False),
        (-4, 4, {}, False),
        (-2, -4, {}, True),
        (0, 4, {}, False),
        (4, 0, {}, False),
        (0, 0, {}, True),
        (3, 4, {"within": 1.5}, True),
        (2, 4, {"within": 1.5}, False),
        (4, 4, {"within": 1}, True),
        (-1, 1, {"tolerance": 2}, True),
        (0.1, 0.3, {"tolerance": 0.2}, True),
        (60, 66, {"tolerance": 5}, False),
        (5, 5, {"tolerance": 0}, True),
        (1e-200, -1e-200, {}, False),
    ],
)
def test_a_number_is_right_within_its_limits(state_dir, answer, value, limits, is_right):
    said = repr(committed(FACTOR, answer).check(value, **limits))
    assert ("Right." in said, "Not right: right is within" in said) == (is_right, not is_right)
    assert [line["right"] for line in record(state_dir)] == [is_right]


def test_the_verdict_says_what_was_said_measured_and_the_rule(state_dir):
    start = "You said 9 times (80 % sure). Measured: 3.3 times."
    rules = {
        "a factor of 2.": {},
        "a factor of 1.5.": {"within": 1.5},
        "5 times.": {"tolerance": 5},
    }
    for rule, limits in rules.items():
        said = committed(FACTOR, 9).check(3.3, **limits)
        assert repr(said) == f"{start} Not right: right is within {rule}"
        assert 'role="status"' in said.data
    said = repr(committed(LINES, "alpha / r", 50).check("alpha / r"))
    assert said == "You said alpha / r (50 % sure). Measured: alpha / r. Right."


def test_one_line_is_kept_with_all_that_was_said(state_dir):
    prediction = committed(LINES, "alpha / r", 60)
    before = datetime.now(UTC).replace(microsecond=0)
    for _ in range(2):
        prediction.check("alpha / sqrt r")
    [line] = record(state_dir)
    assert before <= datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
    assert line == {
        "id": "02-scaling",
        "question": "Which rises?",
        "options": ["alpha / r", "alpha / sqrt r"],
        "unit": "",
        "answer": "alpha / r",
        "value": "alpha / sqrt r",
        "right": False,
        "confidence": 60,
    }


def test_a_try_after_the_result_is_compared_and_not_kept(state_dir):
    late = Prediction(FACTOR)
    late.check(3.3)
    late.commit(3.3, 100)
    again = committed(FACTOR, 3.3, is_result_known=True)
    for prediction in (late, again):
        said = repr(prediction.check(3.3))
        assert said.endswith("Right. This try is not kept: you had seen the result.")
    assert record(state_dir) == []


def test_numbers_of_numpy_are_kept_as_numbers(state_dir):
    committed(FACTOR, 3).check(np.float32(3.5))
    committed(replace(FACTOR, id="02-count"), 3).check(np.int64(4))
    assert [line["value"] for line in record(state_dir)] == [3.5, 4]


@pytest.mark.parametrize("value", [math.nan, math.inf, "3", None, True])
def test_a_result_that_is_no_finite_number_is_refused(state_dir, value):
    with pytest.raises(ValueError, match=r"value=.* must be a finite number"):
        committed(FACTOR, 3).check(value)
    assert record(state_dir) == []


def test_a_result_that_is_no_option_is_refused(state_dir):
    with pytest.raises(ValueError, match=r"value='beta' must be one of alpha / r, alpha / sqrt r"):
        Prediction(LINES).check("beta")


@pytest.mark.parametrize(
    ("question", "limits", "rule"),
    [
        (FACTOR, {"within": 2, "tolerance": 1}, "at most one"),
        (LINES, {"within": 2}, "an option none"),
        (FACTOR, {"within": 0.5}, "at least 1"),
        (FACTOR, {"tolerance": -1}, "at least 0"),
        (FACTOR, {"tolerance": math.nan}, "finite"),
    ],
)
def test_limits_that_are_none_are_refused(state_dir, question, limits, rule):
    value = 3 if question is FACTOR else "alpha / r"
    with pytest.raises(ValueError, match=rule):
        Prediction(question).check(value, **limits)


def test_a_commitment_cannot_be_changed():
    prediction = committed(FACTOR, 3)
    with pytest.raises(ValueError, match="cannot be changed"):
        prediction.commit(4, 90)
    assert (prediction.answer, prediction.confidence) == (3, 80)


@pytest.mark.parametrize(
    ("question", "answer", "confidence", "rule"),
    [
        (LINES, "beta", 50, "must be one of alpha"),
        (LINES, "alpha / r", 40, "must be one of 50, 60, 70, 80, 90, 100"),
        (FACTOR, math.inf, 50, "finite"),
        (FACTOR, 3, 55, "must be one of 10, 20"),
    ],
)
def test_a_commitment_that_is_not_allowed_is_refused(question, answer, confidence, rule):
    prediction = Prediction(question)
    with pytest.raises(ValueError, match=rule):
        prediction.commit(answer, confidence)
    assert not prediction.is_committed


@pytest.mark.parametrize(("n_options", "lowest"), [(2, 50), (3, 40), (4, 30), (5, 20), (10, 10)])
def test_nobody_is_less_sure_than_chance(n_options, lowest):
    question = Question(id="02-a", text="Which?", options=tuple(map(str, range(n_options))))
    assert question.confidences == tuple(range(lowest, 101, 10))


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"id": "2-rates"}, "id='2-rates' must be like"),
        ({"id": 2}, "id=2 must be like"),
        ({"text": None}, "question=None must be a text"),
        ({"unit": None}, "either options, or the unit"),
        ({"options": ("a", "b")}, "either options, or the unit"),
        ({"options": ("a",), "unit": None}, "at least 2"),
        ({"options": ("a", "a"), "unit": None}, "all different"),
        ({"options": "ab", "unit": None}, "names"),
        ({"unit": 3}, "unit=3 must be a text"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(fields, rule):
    with pytest.raises(ValueError, match=rule):
        replace(FACTOR, **fields)


def test_a_record_that_cannot_be_written_does_not_hide_the_result(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_STATE_DIR", str(tmp_path / "file" / "folder"))
    prediction = committed(FACTOR, 3)
    said = repr(prediction.check(3.3))
    assert "Right. It could not be kept: " in said
    monkeypatch.setenv("COURSE_STATE_DIR", str(tmp_path))
    assert "could not" not in repr(prediction.check(3.3))
    assert len(record(tmp_path)) == 1
