"""How far probabilities can be believed."""

import math

import pytest
import torch

from course_utils.evaluation.calibration import expected_calibration_error, reliability


def test_reliability_by_hand():
    # Two bins: 0.1 and 0.2, of which one came true; 0.9 and 0.9, of which one did.
    # The error is 1/2 |0.5 - 0.15| + 1/2 |0.5 - 0.9| = 0.375.
    probabilities = torch.tensor([0.1, 0.9, 0.2, 0.9])
    outcomes = torch.tensor([0, 1, 1, 0])
    bins = reliability(probabilities, outcomes, n_bins=2)
    assert bins.predicted.tolist() == pytest.approx([0.15, 0.9])
    assert bins.observed.tolist() == [0.5, 0.5]
    assert bins.count.tolist() == [2, 2]
    error = expected_calibration_error(probabilities, outcomes, n_bins=2)
    assert error == pytest.approx(0.375)


def test_bins_hold_their_upper_end_and_the_first_also_zero():
    edges = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    assert reliability(edges, torch.zeros(5), n_bins=4).count.tolist() == [2, 1, 1, 1]


def test_empty_bins_are_nan_and_cost_nothing():
    probabilities, outcomes = torch.tensor([0.5] * 4), torch.tensor([1, 0, 0, 1])
    bins = reliability(probabilities, outcomes, n_bins=10)
    assert bins.predicted.isnan().sum() == bins.observed.isnan().sum() == 9
    assert expected_calibration_error(probabilities, outcomes) == 0


def test_predictions_out_of_range_are_refused():
    for bad in (1.5, -0.25, math.nan):
        with pytest.raises(ValueError, match=rf"a probability of {bad} must be in 0..1"):
            reliability(torch.tensor([0.5, bad]), torch.zeros(2))
    for bad in (5.0, 0.5, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"outcomes holds {bad}: it must be 0 or 1"):
            expected_calibration_error(torch.ones(2), torch.tensor([1.0, bad]))
    for bad in (0, 1.5, True, 10**9):
        with pytest.raises(ValueError, match=f"n_bins={bad} must be"):
            reliability(torch.tensor([0.5]), torch.zeros(1), n_bins=bad)
    for shapes in (((0,), (0,)), ((2,), (3,)), ((2, 1), (2, 1))):
        with pytest.raises(ValueError, match=r"at least one|the same|must be \(n,\)"):
            expected_calibration_error(*map(torch.zeros, shapes))
