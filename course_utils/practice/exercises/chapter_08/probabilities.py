"""Probabilities beside frequencies: the expected calibration error."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_utils.evaluation.calibration import expected_calibration_error, reliability
from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_close

Error = Callable[[Tensor, Tensor, int], Tensor | float]


def _predictions() -> Iterator[tuple[Tensor, Tensor, int]]:
    """Return predictions too low and too high, outcomes and bins; the last ones are certain."""
    for n_bins, groups in _GROUPS:
        probabilities = [torch.linspace(low, high, n) for low, high, n, _ in groups]
        outcomes = [(torch.arange(n) < n_right).float() for *_, n, n_right in groups]
        yield torch.cat(probabilities), torch.cat(outcomes), n_bins


# Lowest and highest probability of a group, its size, how often the outcome was 1. Some bins are
# empty, no probability stands on the border of two bins, and gaps have both signs.
_GROUPS = (
    (
        10,
        (
            (0.03, 0.08, 20, 3),
            (0.22, 0.28, 5, 3),
            (0.55, 0.59, 10, 4),
            (0.82, 0.87, 15, 14),
            (0.91, 0.97, 30, 22),
        ),
    ),
    (5, ((0.11, 0.19, 12, 1), (0.45, 0.58, 20, 14), (0.81, 0.99, 40, 25))),
    (
        8,
        ((0, 0, 6, 2), (0.02, 0.09, 10, 0), (0.52, 0.6, 12, 3), (0.9, 0.97, 20, 20), (1, 1, 10, 7)),
    ),
)


def _verify_calibration(calibration_error: Error) -> None:
    for p, y, n_bins in _predictions():
        value = calibration_error(p.clone(), y.clone(), n_bins)
        if isinstance(value, float | Tensor) and torch.as_tensor(value).isnan().any():
            raise Wrong(
                "your answer is NaN: an empty bin has no mean, and 0 times NaN is NaN; leave empty "
                "bins out"
            )
        expected = expected_calibration_error(p, y, n_bins)
        slips = (*_slips(p, y, n_bins), *_edges(p, y, n_bins))
        expect_close(value, expected, what=f"the error over {n_bins} bins", slips=slips)


def _slips(p: Tensor, y: Tensor, n_bins: int) -> list[tuple[float, str]]:
    bins = reliability(p, y, n_bins)
    full, middle = bins.count > 0, (torch.arange(n_bins) + 0.5) / n_bins
    share, said, seen = bins.count[full] / len(p), bins.predicted[full], bins.observed[full]
    gaps, n_empty, everyone = (seen - said).abs(), (~full).sum(), y.mean()
    alike = "each bin counts the same in yours; weight it by its share of the predictions"
    empty = "an empty bin is counted as an error: nobody predicted anything there"
    return [
        (float(number), sentence)
        for number, sentence in (
            (gaps.mean(), alike),
            (gaps.sum() / n_bins, alike),
            (gaps.sum(), alike),
            ((gaps.sum() + n_empty) / n_bins, empty),
            ((gaps.sum() + middle[~full].sum()) / n_bins, empty),
            ((share * gaps).sum() + middle[~full].sum() / n_bins, empty),
            (
                (share * (everyone - said).abs()).sum(),
                "you compare with the share over all predictions; each bin has a share of its own",
            ),
            *(
                (
                    sign * (everyone - p.mean()),
                    "too high in one bin and too low in another cancel: "
                    "take the absolute value in each bin, then add up",
                )
                for sign in (1, -1)
            ),
            (
                (share * (seen - middle[full]).abs()).sum(),
                "you take the middle of a bin for what "
                "was predicted; take the mean probability in it",
            ),
            *_other_measures(p, y, n_bins),
            (gaps.max(), "that is the largest gap, the maximum calibration error"),
            ((share * gaps.square()).sum(), "the gaps are squared; take their absolute values"),
        )
    ]


def _other_measures(p: Tensor, y: Tensor, n_bins: int) -> list[tuple[Tensor | float, str]]:
    """Return what is no error of bins, or of bins of something else."""
    is_right = ((p > 0.5) == y.bool()).float()
    decisions = "you count right decisions at 0.5; count how often the outcome was 1"
    return [
        ((p - y).square().mean(), "that is the Brier score, which also punishes honest doubt"),
        (
            (p - y).abs().mean(),
            "that compares single predictions with single outcomes; a "
            "probability can only be checked against a share",
        ),
        (expected_calibration_error(p, is_right, n_bins), decisions),
        (expected_calibration_error(torch.maximum(p, 1 - p), is_right, n_bins), decisions),
    ]


def _edges(p: Tensor, y: Tensor, n_bins: int) -> list[tuple[float, str]]:
    """Return what comes out if certain predictions miss the bins."""
    slips = []
    for edge in (0.0, 1.0):
        rest, sure = p != edge, p == edge
        if not sure.any():
            continue
        share, inner = rest.float().mean(), expected_calibration_error(p[rest], y[rest], n_bins)
        own = (1 - share) * (y[sure].mean() - edge).abs()
        sentence = f"a probability of exactly {edge:g} falls out of your bins; {_HOME[edge]}"
        slips += [(float(share * inner), sentence), (inner, sentence)]
        slips.append(
            (
                float(share * inner + own),
                f"a probability of exactly {edge:g} has a bin of its own in yours; {_HOME[edge]}",
            )
        )
    return slips


_HOME = {0.0: "it belongs into the first one", 1.0: "it belongs into the last one"}


def _error(probabilities: Tensor, outcomes: Tensor, n_bins: int) -> Tensor:
    bins = (probabilities * n_bins).long().clamp(max=n_bins - 1)
    error = torch.zeros(())
    for m in bins.unique():
        inside = bins == m
        gap = (outcomes[inside].mean() - probabilities[inside].mean()).abs()
        error += inside.float().mean() * gap
    return error


def _over_bins(
    combine: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], *, bins_of: Callable | None = None
) -> Error:
    """Return an answer that combines share, prediction, outcome and middle of all bins.

    The means of empty bins are 0.
    """

    def error(p: Tensor, y: Tensor, n_bins: int) -> Tensor:
        bins = bins_of(p, n_bins) if bins_of else (p * n_bins).long().clamp(max=n_bins - 1)
        inside = [bins == m for m in range(int(max(n_bins, bins.max() + 1)))]
        share = torch.stack([i.float().mean() for i in inside])
        said, seen = (
            torch.stack([x[i].mean() if i.any() else torch.zeros(()) for i in inside])
            for x in (p, y)
        )
        middle = (torch.arange(len(inside)) + 0.5) / n_bins
        return combine(share, said, seen, middle)

    return error


def _weighted(share: Tensor, said: Tensor, seen: Tensor, middle: Tensor) -> Tensor:
    return (share * (seen - said).abs()).sum()


def _error_with_nan(p: Tensor, y: Tensor, n_bins: int) -> Tensor:
    bins = (p * n_bins).long().clamp(max=n_bins - 1)
    inside = [bins == m for m in range(n_bins)]
    return sum(i.float().mean() * (y[i].mean() - p[i].mean()).abs() for i in inside)


CALIBRATION = Check(
    name="08-calibration",
    verify=_verify_calibration,
    solution=_error,
    rejects=(
        (
            _over_bins(lambda share, said, seen, middle: (seen - said).abs()[share > 0].mean()),
            "each bin counts the same",
        ),
        (
            _over_bins(lambda share, said, seen, middle: (seen - said).abs().mean()),
            "each bin counts the same",
        ),
        (
            _over_bins(lambda share, said, seen, middle: (seen - said).abs().sum()),
            "each bin counts the same",
        ),
        (
            _over_bins(
                lambda share, said, seen, middle: torch.where(
                    share > 0, (seen - said).abs(), 1.0
                ).mean()
            ),
            "empty bin is counted",
        ),
        (
            _over_bins(
                lambda share, said, seen, middle: torch.where(
                    share > 0, (seen - said).abs(), middle
                ).mean()
            ),
            "empty bin is counted",
        ),
        (
            _over_bins(
                lambda share, said, seen, middle: (
                    share * ((share * seen).sum() - said).abs()
                ).sum()
            ),
            "a share of its own",
        ),
        (_over_bins(lambda share, said, seen, middle: (share * (seen - said)).sum()), "cancel"),
        (lambda p, y, n_bins: (p.mean() - y.mean()).abs(), "cancel"),
        (
            _over_bins(lambda share, said, seen, middle: (share * (seen - middle).abs()).sum()),
            "the middle of a bin",
        ),
        (_over_bins(lambda share, said, seen, middle: (seen - said).abs().max()), "largest gap"),
        (
            _over_bins(lambda share, said, seen, middle: (share * (seen - said) ** 2).sum()),
            "are squared",
        ),
        (lambda p, y, n_bins: (p - y).square().mean(), "Brier"),
        (lambda p, y, n_bins: (p - y).abs().mean(), "single predictions"),
        (lambda p, y, n_bins: _error(p, ((p > 0.5) == y.bool()).float(), n_bins), "decisions"),
        (
            lambda p, y, n_bins: _error(
                torch.maximum(p, 1 - p), ((p > 0.5) == y.bool()).float(), n_bins
            ),
            "decisions",
        ),
        (_error_with_nan, "0 times NaN"),
        (_over_bins(_weighted, bins_of=lambda p, n_bins: (p * n_bins).long()), "of its own"),
        (lambda p, y, n_bins: _error(p[p < 1], y[p < 1], n_bins), "falls out of your bins"),
        (
            _over_bins(_weighted, bins_of=lambda p, n_bins: (p * n_bins).ceil().long() - 1),
            "exactly 0 falls out",
        ),
        (lambda p, y, n_bins: 100 * _error(p, y, n_bins), "too large"),
    ),
    insight="A model that always says 0.7 and is right in 70 % of all cases has an error of 0, and "
    "is of no use: calibration is not accuracy.",
)
