"""Chapter 08's checks take every right way of writing an answer, and name a wrong one by its kind.

That the solutions pass and the listed wrong answers do not is in ``test_checks``.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from course_utils.evaluation.calibration import expected_calibration_error
from course_utils.practice.exercises import attempt
from course_utils.practice.exercises.chapter_08 import (
    BRADLEY_TERRY,
    CALIBRATION,
    LAST_TOKEN,
    NOISE,
    WIN,
)
from course_utils.rlhf.losses import bradley_terry_loss
from course_utils.rlhf.masks import last_token_index


@pytest.mark.parametrize(
    "loss",
    [
        bradley_terry_loss,
        lambda c, r: functional.softplus(r - c).mean(),
        lambda c, r: torch.logaddexp(torch.zeros_like(c), r - c).mean(),
        lambda c, r: functional.binary_cross_entropy_with_logits(c - r, torch.ones_like(c)),
        lambda c, r: functional.cross_entropy(torch.stack([c, r], 1), torch.zeros(len(c)).long()),
        lambda c, r: -torch.stack([c, r]).log_softmax(dim=0)[0].mean(dim=0, keepdim=True),
        lambda c, r: sum(-functional.logsigmoid(a - b) for a, b in zip(c, r, strict=True)) / len(c),
    ],
)
def test_the_loss_of_pairs_may_be_written_in_many_ways(loss):
    assert attempt(BRADLEY_TERRY, loss), attempt(BRADLEY_TERRY, loss)


@pytest.mark.parametrize(
    "last_token",
    [
        last_token_index,
        lambda mask: mask.cumsum(1).argmax(1),
        lambda mask: mask.shape[1] - 1 - mask.flip(1).argmax(1),
        lambda mask: -1 - mask.flip(1).argmax(1),
        lambda mask: mask.argmax(1) + mask.sum(1) - 1,
        lambda mask: (mask * torch.arange(mask.shape[1])).max(1).values.int(),
        lambda mask: [row.nonzero().max().item() for row in mask],
        lambda mask: torch.stack([row.nonzero()[-1, 0] for row in mask]),
    ],
)
def test_the_last_token_may_be_found_in_many_ways(last_token):
    assert attempt(LAST_TOKEN, last_token), attempt(LAST_TOKEN, last_token)


def test_a_side_with_a_branch_of_its_own_fails_on_rows_padded_on_both():
    def by_side(mask):
        ends_in_padding = mask[:, -1] == 0
        return torch.where(ends_in_padding, mask.sum(1) - 1, mask.shape[1] - 1)

    verdict = attempt(LAST_TOKEN, by_side)
    assert verdict.message.startswith("With padding on both sides")
    assert "[0, 1, 1, 1, 0] is at 3, counted from 0, and yours is 2" in verdict.message


def bins_by_edges(p, y, n_bins):
    edges, total = torch.linspace(0, 1, n_bins + 1), 0.0
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (p > low) & (p <= high) | ((p == 0) & (i == 0))
        if inside.any():
            total += inside.sum() / len(p) * abs(p[inside].mean() - y[inside].mean())
    return total


def by_sums(p, y, n_bins):
    bins = torch.bucketize(p, torch.linspace(0, 1, n_bins + 1)[1:-1])
    return torch.bincount(bins, weights=(p - y).double()).abs().sum().item() / len(p)


def with_numpy(p, y, n_bins):
    p, y = p.numpy(), y.numpy()
    bins = np.minimum((p * n_bins).astype(int), n_bins - 1)
    gaps = [abs((y - p)[bins == m].mean()) * (bins == m).mean() for m in np.unique(bins)]
    return np.sum(gaps)


@pytest.mark.parametrize("error", [expected_calibration_error, bins_by_edges, by_sums, with_numpy])
def test_the_calibration_error_may_be_written_in_many_ways(error):
    assert attempt(CALIBRATION, error), attempt(CALIBRATION, error)


def test_an_index_past_the_last_bin_stops_at_the_learners_line():
    def past_the_end(p, y, n_bins):
        said, seen = torch.zeros(2, n_bins)
        for probability, outcome in zip(p, y, strict=True):
            said[int(probability * n_bins)] += probability
            seen[int(probability * n_bins)] += outcome
        return (said - seen).abs().sum() / len(p)

    verdict = attempt(CALIBRATION, past_the_end)
    assert verdict.outcome == "error"
    assert "`said[int(probability * n_bins)] += probability`, raised IndexError" in verdict.message


@pytest.mark.parametrize(
    "odds",
    [
        lambda a, b, p: (1 / (1 + math.exp(b - a)), math.log(p) - math.log(1 - p)),
        lambda a, b, p: [math.exp(a) / (math.exp(a) + math.exp(b)), -math.log(1 / p - 1)],
        lambda a, b, p: torch.stack([torch.stack([a, b]).softmax(0)[0], p.logit()]),
        lambda a, b, p: (1 / (1 + np.exp(float(b - a))), np.log(float(p / (1 - p)))),
        lambda a, b, p: ((1 + torch.tanh((a - b) / 2)) / 2, 2 * torch.atanh(2 * p - 1)),
    ],
)
def test_odds_may_be_numbers_or_tensors(odds):
    assert attempt(WIN, odds), attempt(WIN, odds)


def soft_cross_entropy(accuracy, q, difference):
    target = torch.stack([1 - q, q])
    loss = functional.cross_entropy(torch.stack([difference, 0 * difference])[None], target[None])
    return accuracy + q - 2 * accuracy * q, loss


def with_math(accuracy, q, difference):
    win = 1 / (1 + math.exp(-difference))
    return q + accuracy * (1 - 2 * q), -(1 - q) * math.log(win) - q * math.log(1 - win)


def with_logits(accuracy, q, difference):
    measured = accuracy * (1 - q) + (1 - accuracy) * q
    return torch.stack([measured, functional.binary_cross_entropy_with_logits(difference, 1 - q)])


@pytest.mark.parametrize("noisy", [soft_cross_entropy, with_math, with_logits])
def test_the_loss_under_noise_may_be_written_in_many_ways(noisy):
    assert attempt(NOISE, noisy), attempt(NOISE, noisy)


def test_the_soft_loss_is_least_where_the_sigmoid_is_the_target():
    differences, q = torch.linspace(-4, 4, 8001, dtype=torch.float64), torch.tensor(0.2)
    _, losses = NOISE.solution(torch.tensor(0.9), q, differences)
    assert differences[losses.argmin()].sigmoid().item() == pytest.approx(0.8, abs=1e-3)


def test_measured_accuracy_is_simulated():
    luck = torch.rand(2, 200_000, generator=torch.Generator().manual_seed(0))
    is_right, is_flipped = luck < torch.tensor([[0.76], [0.2]])
    agrees = is_right != is_flipped
    measured, _ = NOISE.solution(*(torch.tensor(x) for x in (0.76, 0.2, 0.0)))
    assert agrees.float().mean().item() == pytest.approx(measured.item(), abs=0.004)


@pytest.mark.parametrize("check", [WIN, NOISE], ids=lambda check: check.name)
@pytest.mark.parametrize("answer", [lambda *x: 0.5, lambda *x: (), lambda *x: (0.5,) * 3])
def test_what_is_not_a_pair_is_said_so(check, answer):
    verdict = attempt(check, answer)
    assert verdict.outcome == "wrong"
    assert verdict.message.startswith("Return two numbers")


@pytest.mark.parametrize("check", [WIN, NOISE], ids=lambda check: check.name)
def test_half_a_pair_is_not_an_attempt(check):
    assert attempt(check, lambda *x: (0.5, ...)).outcome == "not attempted"
