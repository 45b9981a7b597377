"""What comes in is checked: by each check, and by every configuration, field by field."""

import dataclasses
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch

from course_utils import intervals, methods, validation
from course_utils.memory.architecture import known_architectures
from course_utils.memory.workload import Workload
from course_utils.models.profiles import current_profile
from course_utils.rlhf.config import PPOConfig
from course_utils.training import TrainingConfig
from course_utils.validation import shown

NAN, INF, HUGE = math.nan, math.inf, 10**5000
WHOLE = "in -2**63..2**63, or have a point"
NO_COUNTS = (2.5, 4.0, NAN, INF, "4", True, -1, HUGE, [], Fraction(4), torch.tensor(4), b"4")
NO_NUMBERS = (NAN, INF, -INF, "0.1", [], True, HUGE, Decimal("0.1"), Fraction(1, 2), torch.ones(()))
NO_FLAGS = ("false", 0, 1, NAN, torch.tensor(True), [])
NO_TEXTS = (5, NAN, [], b"x", "\ud800")


def refusal(make: Callable[[], object]) -> str:
    """Call what must be refused, and return the one sentence that says so."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make()
    message = str(error.value)
    assert type(error.value) is ValueError
    assert len(message) <= 300
    assert "\n" not in message
    return message


# The checks


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (validation.check_count, 0, "x=0 must be at least 1"),
        (validation.check_count, 2.0, "x=2.0 must be a whole number, at least 1"),
        (
            validation.check_count,
            HUGE,
            f"x=a number of 16610 bits must be at most {2**63 - 1}",
        ),
        (validation.check_count, -HUGE, "x=a number of 16610 bits must be at least 1"),
        (validation.check_number, "1", "x='1' must be a finite number"),
        (
            validation.check_number,
            HUGE,
            f"x=a number of 16610 bits must be {WHOLE}",
        ),
        (validation.check_flag, "false", "x='false' must be True or False"),
        (validation.check_text, None, "x=None must be a text"),
        (validation.check_text, "a\ud800", "x='a\\ud800' holds '\\ud800', half of a character"),
        (validation.check_names, "ab", "x='ab' must be one or more names"),
        (validation.check_names, (), "x=() must be one or more names"),
        (validation.check_path, 5, "x=5 must be a path, or None"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or shown(value),
)
def test_a_refusal_gives_the_value_and_the_rule(check: Callable, value: object, message: str):
    assert refusal(lambda: check("x", value)) == message


def test_a_rule_names_its_limits():
    assert refusal(lambda: validation.check_count("x", 9, at_most=8)).endswith("must be in 1..8")
    for limits, rule in (
        ({"at_least": 0, "at_most": 1}, "in 0..1"),
        ({"above": 0, "at_most": 1}, "above 0 and at most 1"),
        ({"at_least": 0, "below": 1}, "at least 0 and below 1"),
    ):
        for value in (-0.5, 1.5):
            message = refusal(lambda v=value, k=limits: validation.check_number("x", v, **k))
            assert message == f"x={value} must be {rule}"
    validation.check_number("x", 1, at_least=1, at_most=1)
    with pytest.raises(ValueError, match="x=0 must be above 0"):
        validation.check_number("x", 0, above=0)


@pytest.mark.parametrize("value", [1, np.int8(1), np.int64(1), np.uint16(1)])
def test_numbers_of_numpy_are_numbers(value: object):
    validation.check_count("x", value)
    validation.check_number("x", value)
    validation.check_number("x", np.float32(0.5))
    assert refusal(lambda: validation.check_number("x", np.float16(NAN)))
    assert refusal(lambda: validation.check_count("x", np.bool_(1)))


@pytest.mark.parametrize("value", NO_COUNTS, ids=shown)
def test_what_is_no_whole_number_is_refused(value: object):
    assert refusal(lambda: validation.check_count("x", value)).startswith("x=")


@pytest.mark.parametrize("value", NO_NUMBERS, ids=shown)
def test_what_is_no_finite_number_is_refused(value: object):
    assert refusal(lambda: validation.check_number("x", value)).startswith("x=")


def test_lists_are_as_long_as_one_another_and_hold_texts():
    validation.check_texts(prompts=["a"], answers=("b",))
    for lists, message in (
        ({"prompts": []}, "there are no prompts: at least 1 is needed"),
        ({"a": ["x"], "b": ["x", "y"]}, "1 a and 2 b must be as many, at least 1"),
        ({"prompts": "text"}, "prompts='text' must be a list"),
        ({"prompts": None}, "prompts=None must be a list"),
        ({"prompts": ["a", None]}, "prompts[1]=None must be a text"),
    ):
        assert refusal(lambda k=lists: validation.check_texts(**k)) == message


def test_tensors_have_one_shape_and_masks_hold_0_and_1():
    ones = torch.ones(2, 3)
    for wrong, message in (
        ({"a": ones, "b": ones[0]}, "the shapes must be the same: a (2, 3), b (3,)"),
        ({"a": [1.0]}, "a=[1.0] must be a tensor"),
        ({"a": ones[:0]}, "there must be at least one number: a (0, 3)"),
    ):
        assert refusal(lambda k=wrong: validation.check_shapes(**k)) == message
    for mask in (ones, ones.long(), ones.bool()):
        validation.check_mask("mask", mask)
    for value in (0.5, 2.0, -1.0, NAN):
        assert "0 or 1" in refusal(lambda v=value: validation.check_mask("mask", ones * v))
    assert "(batch, seq)" in refusal(
        lambda: validation.check_dimensions("a", ones[0], "(batch, seq)")
    )
    validation.check_dimensions("a", ones[0], "(n,)")


@pytest.mark.parametrize(
    "value",
    [
        HUGE,
        [HUGE],
        {"a": [HUGE]},
        "a" * 10**6,
        [["b" * 99] * 99] * 99,
        torch.ones(99, 99),
        "\n" * 99,
    ],
    ids=shown,
)
def test_values_are_shown_on_one_short_line(value: object):
    assert len(shown(value)) < 100
    assert "\n" not in shown(value)


# Every configuration


def a_profile() -> Any:
    return current_profile({"COURSE_PROFILE": "cpu"})


CONFIGURATIONS = {
    type(made).__name__: made
    for made in (
        methods.FullFineTuning(),
        methods.FrozenFineTuning(last_n_layers=1),
        methods.LoRAConfig(),
        methods.DoRAConfig(),
        methods.DyLoRAConfig(),
        methods.NOLAConfig(),
        methods.LoRAXSConfig(),
        methods.TinyLoRAConfig(),
        methods.BottleneckConfig(),
        methods.PromptTuningConfig(),
        methods.PTuningConfig(),
        methods.PrefixTuningConfig(),
        methods.PTuningV2Config(),
        TrainingConfig(max_steps=1, learning_rate=1e-3),
        PPOConfig(),
        a_profile(),
        known_architectures()["Qwen3-0.6B"],
        Workload(batch_size=1, seq_len=1, dtype_bytes=4),
    )
}
FIELDS = [
    (name, field.name)
    for name, made in CONFIGURATIONS.items()
    for field in dataclasses.fields(made)
    if field.init
]


def wrong_values(kind: Any) -> tuple[object, ...]:
    """Return values that a field of this type must refuse."""
    if get_origin(kind) is UnionType:
        parts = [part for part in get_args(kind) if part is not type(None)]
        wrong = wrong_values(parts[-1])  # of a text or several, what several texts cannot be
        return tuple(v for v in wrong if v is not None) if type(None) in get_args(kind) else wrong
    by_kind = {
        int: NO_COUNTS,
        float: NO_NUMBERS,
        bool: NO_FLAGS,
        str: NO_TEXTS,
        Path: (5, NAN, [], True),
        Literal: ("no such choice", *NO_TEXTS),
        tuple: (5, "ab", (NAN,), (None,), ([],), {}),
    }
    return (*by_kind[get_origin(kind) or kind], None)


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=lambda value: value)
def test_every_field_refuses_what_it_cannot_be(name: str, field: str):
    made = CONFIGURATIONS[name]
    kind = next(f.type for f in dataclasses.fields(made) if f.name == field)
    accepted = []
    for value in wrong_values(kind):
        try:
            message = refusal(lambda v=value: dataclasses.replace(made, **{field: v}))
        except (Exception, pytest.fail.Exception) as error:
            accepted.append(f"{shown(value)}: {type(error).__name__} {error}"[:200])
        else:
            assert field in message
    assert not accepted


@pytest.mark.parametrize("name", ["PPOConfig", "Profile", "Architecture", "Workload"])
def test_numbers_of_numpy_become_python_s(name: str):
    made = CONFIGURATIONS[name]
    whole = {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.type is int}
    other = dataclasses.replace(made, **{name: np.int32(value) for name, value in whole.items()})
    assert other == made
    assert {type(getattr(other, name)) for name in whole} == {int}


# Runs over seeds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "there are no values: at least 1 is needed"),
        ([1.0, NAN], "values[1]=nan must be a finite number, in -1e+150..1e+150"),
        ([1.0, "2"], "values[1]='2' must be a finite number, in -1e+150..1e+150"),
        ([1e308] * 3, "values[0]=1e+308 must be in -1e+150..1e+150"),
        ("12", "values='12' must be a list"),
    ],
)
def test_runs_are_finite_numbers(values: object, message: str):
    assert refusal(lambda: intervals.interval(values)) == message
    both = refusal(lambda: intervals.paired_difference([1.0, 2.0], values))
    assert both == message.replace("values", "second", 1)
    assert intervals.interval(np.array([1, 2, 3])) == intervals.interval([1, 2, 3])
