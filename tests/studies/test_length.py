"""A run of a study ends where it was told to, or where validation stops getting better."""

import pytest
import torch
from torch import nn

from course_utils.studies.length import Length, Looks, Plateau


class OneNumber(nn.Module):
    """A model whose only weight is the number of steps done."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)


def run(length: Length, max_steps: int, scores: dict[int, float]) -> tuple[Looks, OneNumber, int]:
    model = OneNumber().train()
    looks = Looks(length, max_steps, lambda model: scores[int(model.weight.item())])
    for step in range(1, max_steps + 1):
        with torch.no_grad():
            model.weight += 1
            model.frozen += 1
        try:
            looks(step, model)
        except Plateau:
            return looks, model, step
        assert model.training
    return looks, model, max_steps


def test_looks_are_spread_evenly_and_the_last_step_is_one():
    looks, model, _ = run(Length(looks=4), 10, {2: 0.1, 5: 0.2, 8: 0.3, 10: 0.2})
    assert looks.curve == [(2, 0.1), (5, 0.2), (8, 0.3), (10, 0.2)]
    assert model.weight.item() == 10


def test_a_run_ends_after_its_patience_and_goes_back_to_the_best():
    scores = {1: 0.1, 2: 0.5, 3: 0.4, 4: 0.5, 5: 0.9}
    looks, model, last = run(Length(looks=5, patience=2), 5, scores)
    assert last == 4
    assert looks.restore(model) == 2
    assert model.weight.item() == 2
    assert model.frozen.item() == 4


def test_a_score_that_is_no_number_is_the_worst():
    scores = {1: float("nan"), 2: 0.1, 3: float("nan"), 4: 0.05}
    looks, model, last = run(Length(looks=4, patience=2), 4, scores)
    assert (last, looks.restore(model), model.weight.item()) == (4, 2, 2)


def test_a_run_that_goes_on_getting_better_is_not_cut():
    looks, model, last = run(Length(looks=3, patience=1), 3, {1: 0.1, 2: 0.2, 3: 0.3})
    assert (last, looks.restore(model)) == (3, 3)


def test_the_rate_falls_only_where_the_end_is_known():
    assert (Length(times=3).final_ratio, Length(looks=4, patience=2).final_ratio) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": 0}, "times=0 must be above 0"),
        ({"patience": 2}, "looks=0 must be"),
        ({"looks": 4, "patience": 0}, "patience=0 must be"),
    ],
)
def test_a_wrong_length_is_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Length(**options)
