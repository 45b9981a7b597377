"""How far probabilities can be believed: reliability, and the calibration error."""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.validation import check_count, check_dimensions, check_mask, check_shapes

MAX_BINS = 10_000


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Probabilities beside frequencies, in bins of equal width; all (n_bins,).

    Args:
        predicted: Mean probability of the predictions in a bin, NaN where it is empty.
        observed: Share of them that came true, NaN where it is empty.
        count: Predictions in a bin.
    """

    predicted: Tensor
    observed: Tensor
    count: Tensor


def reliability(probabilities: Tensor, outcomes: Tensor, n_bins: int = 10) -> Reliability:
    """Sort predictions into bins by their probability, and see how many came true.

    Bin m of M holds the probabilities in ((m-1)/M, m/M] (Guo et al., 2017, arXiv:1706.04599,
    section 2); the first holds 0 as well.

    Args:
        probabilities: Probabilities, 0..1, (n,).
        outcomes: What happened, 0 or 1, (n,).
        n_bins: Number of bins M.

    Raises:
        ValueError: If there is no prediction, the shapes differ, or a value is out of range.
    """
    check_shapes(probabilities=probabilities, outcomes=outcomes)
    check_dimensions("probabilities", probabilities, "(n,)")
    check_mask("outcomes", outcomes)
    check_count("n_bins", n_bins, at_most=MAX_BINS)
    outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
    if len(outside):
        raise ValueError(f"a probability of {outside[0].item()} must be in 0..1")
    probabilities, outcomes = probabilities.detach().double(), outcomes.double()
    bins = (probabilities * n_bins).ceil().long().clamp(min=1) - 1
    count = torch.bincount(bins, minlength=n_bins)
    predicted, observed = (
        torch.bincount(bins, weights=weights, minlength=n_bins) / count
        for weights in (probabilities, outcomes)
    )
    return Reliability(predicted=predicted, observed=observed, count=count)


def expected_calibration_error(probabilities: Tensor, outcomes: Tensor, n_bins: int = 10) -> float:
    """Return how far probabilities are from frequencies, as a mean over predictions.

    ``sum of count / n * |observed - predicted|`` (Guo et al., 2017, arXiv:1706.04599, eq. 3).

    Args:
        probabilities: Probabilities, 0..1, (n,).
        outcomes: What happened, 0 or 1, (n,).
        n_bins: Number of bins.

    Raises:
        ValueError: If there is no prediction, the shapes differ, or a value is out of range.
    """
    bins = reliability(probabilities, outcomes, n_bins)
    gaps = (bins.observed - bins.predicted).abs().nan_to_num(0)
    return (bins.count * gaps).sum().item() / len(probabilities)
