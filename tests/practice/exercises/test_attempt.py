"""What a learner sees after an attempt."""

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from course_utils.practice.exercises import (
    Check,
    Verdict,
    Wrong,
    attempt,
    expect_close,
    expect_equal,
    expect_tensor,
)
from course_utils.practice.exercises.compare import is_near_tensor
from tests.practice.exercises.made_up_checks import BYTES, COUNTER, SCALE, Counter


def stub(x, factor): ...


def stub_with_docstring(x, factor):
    """Return x times factor."""


def stub_with_pass(x, factor):
    pass


def half_done(x, factor):
    scaled = ...
    return scaled


def part_done(x, factor):
    return x, ...


def not_implemented(x, factor):
    raise NotImplementedError


class StubCounter(Counter):
    def count(self, items): ...


@pytest.mark.parametrize(
    "answer", [stub, stub_with_docstring, stub_with_pass, half_done, part_done, not_implemented]
)
def test_an_untouched_function_is_not_an_attempt(answer):
    assert attempt(SCALE, answer).outcome == "not attempted"


@pytest.mark.parametrize("answer", [..., None, (1, ...), [...], {"bytes": ...}])
def test_an_untouched_value_is_not_an_attempt(answer):
    verdict = attempt(BYTES, answer)
    assert verdict.outcome == "not attempted"
    assert not verdict


def test_an_untouched_class_is_not_an_attempt_but_an_empty_init_is():
    assert attempt(COUNTER, StubCounter).outcome == "not attempted"
    assert attempt(COUNTER, Counter)


def test_a_function_that_computes_but_forgets_to_return_was_attempted():
    def forgetful(x, factor):
        x * factor

    verdict = attempt(SCALE, forgetful)
    assert verdict.outcome == "wrong"
    assert "NoneType" in verdict.message


def test_an_error_in_the_learners_code_names_type_message_and_line():
    def crashes(x, factor):
        y = x * factor
        return y @ y

    verdict = attempt(SCALE, crashes)
    line = crashes.__code__.co_firstlineno + 2
    assert verdict.outcome == "error"
    assert verdict.message.startswith(f"Line {line}, `return y @ y`, raised RuntimeError: ")
    assert "\n" not in verdict.message


def test_the_line_is_the_learners_even_in_a_class():
    class Crashing(Counter):
        def count(self, items):
            return items["a"]

    verdict = attempt(COUNTER, Crashing)
    assert '`return items["a"]`, raised TypeError: ' in verdict.message


def test_a_not_implemented_of_a_library_is_an_error():
    def uses_missing(x, factor):
        return torch.nn.Module()(x)

    verdict = attempt(SCALE, uses_missing)
    assert verdict.outcome == "error"
    assert "NotImplementedError" in verdict.message


def test_an_answer_of_the_wrong_kind_is_explained_without_a_line():
    verdict = attempt(SCALE, 3)
    assert verdict.outcome == "error"
    assert verdict.message.startswith("The check could not use your answer (TypeError: ")


def test_a_long_message_is_cut():
    def talks(x, factor):
        raise ValueError("word " * 1000)

    assert len(attempt(SCALE, talks).message) < 500


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes(signal):
    def interrupted(x, factor):
        raise signal

    with pytest.raises(signal):
        attempt(SCALE, interrupted)


def test_a_verdict_is_true_only_if_correct():
    assert Verdict("correct")
    for outcome in ("wrong", "error", "not attempted"):
        assert not Verdict(outcome)


def test_a_cell_shows_one_box_and_its_text():
    shell = InteractiveShell.instance()
    data, _ = shell.display_formatter.format(attempt(BYTES, 4))
    shell.clear_instance()
    assert set(data) == {"text/plain", "text/html"}
    assert data["text/plain"] == "✗ Not yet. These are the weights alone."
    assert data["text/html"].count("Not yet.") == 1


def test_a_message_is_text_not_markup():
    verdict = Verdict("wrong", "use `a < b`, not <script>")
    assert "<code>a &lt; b</code>, not &lt;script&gt;" in verdict._repr_html_()


# Comparisons


def test_a_number_may_be_a_tensor_and_off_by_the_tolerance():
    expect_close(torch.tensor(16.01), 16)
    expect_close(0.0005, 0)
    with pytest.raises(Wrong, match="too large"):
        expect_close(16.1, 16)
    with pytest.raises(Wrong, match="too small"):
        expect_close(-0.1, 0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-112, "sign"),
        (224, "twice"),
        (56, "half"),
        (112_000, "1,000 times too large"),
        (0.112, "1,000 times too small"),
        (112e9, "10\\^9 times too large"),
        (112e9 / 2**30, "GiB"),
        (112e6 / 2**20, "MiB"),
        (float("nan"), "division by zero"),
        ("112", "must be a number"),
        (True, "must be a number"),
        ([112], "not list"),
        (torch.ones(2), "not Tensor"),
        (len, "must be a number"),
    ],
)
def test_common_slips_with_numbers_are_named(value, message):
    with pytest.raises(Wrong, match=message):
        expect_close(value, 112)


def test_a_named_slip_comes_first():
    with pytest.raises(Wrong, match="weights alone"):
        expect_close(56, 112, slips=[(56, "weights alone")])


def test_equal_does_not_give_the_answer_away():
    expect_equal("b", "b")
    with pytest.raises(Wrong, match="close") as caught:
        expect_equal("a", "secret", slips=[("a", "close")])
    with pytest.raises(Wrong, match="'c', which is not right") as caught:
        expect_equal("c", "secret")
    assert "secret" not in str(caught.value)


def test_a_tensor_that_needs_a_gradient_or_is_half_is_compared_too():
    x = torch.ones(2, 2)
    expect_tensor(x.clone().requires_grad_(), x)
    expect_tensor(x.bfloat16(), x)


def test_a_named_slip_of_a_tensor_comes_after_the_right_answer_and_before_the_shape():
    x = torch.ones(2, 3)
    slips = [(x, "right, too"), (x[0], "a row"), (2 * x, "the half is missing")]
    expect_tensor(x, x, slips=slips)
    with pytest.raises(Wrong, match="a row"):
        expect_tensor(x[0], x, slips=slips)
    with pytest.raises(Wrong, match="the half is missing"):
        expect_tensor(2 * x, x, slips=slips)
    with pytest.raises(Wrong, match="factor of 3"):
        expect_tensor(3 * x, x, slips=slips)


@pytest.mark.parametrize("value", [3.0, torch.ones(3), torch.full((2,), torch.nan)])
def test_what_is_no_tensor_or_holds_nan_or_is_of_another_shape_is_not_near(value):
    assert not is_near_tensor(value, torch.ones(2))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("h itself is missing", "h itself is missing."),
        ("k1 has the wrong sign", "k1 has the wrong sign."),
        ("model.norm.weight is frozen", "model.norm.weight is frozen."),
        ("a label is missing", "A label is missing."),
        ("right, but too long", "Right, but too long."),
    ],
)
def test_a_message_begins_with_a_capital_but_for_a_name(text, shown):
    def verify(answer):
        raise Wrong(text)

    check = Check(name="00-words", verify=verify, solution=1, rejects=((2, "a"), (3, "b")))
    assert attempt(check, 2).message == shown
