"""What a prefix does to attention: it mixes a part of its own into the content's."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course_utils.practice.exercises.chapter_06.answers import expect_parts
from course_utils.practice.exercises.check import Check
from course_utils.practice.exercises.compare import Slips, expect_close, expect_tensor
from course_utils.practice.exercises.material import draw

Mixture = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Sequence[Tensor]]


def _verify_mixture(mixture: Mixture) -> None:
    # Not as many values as keys have numbers, and not as many prefixes as tokens.
    for n, seq, d, d_v in ((2, 5, 4, 3), (3, 4, 16, 6)):
        q, keys, values = draw(d), draw(seq, d, seed=1), draw(seq, d_v, seed=2)
        prefix = draw(n, d, seed=3), draw(n, d_v, seed=4)
        given = (q, keys, values, *prefix)
        found = mixture(*(part.clone() for part in given))
        share, output = expect_parts(found, 2, "the share a of the prefix, and the output")
        a, expected = _mixture(*given)
        what = f"for {n} prefixes and {seq} tokens the share a"
        expect_close(share, a.item(), what=what, slips=_share_slips(*given))
        expect_tensor(output, expected, what="the output", slips=_output_slips(*given))


def _scores(q: Tensor, keys: Tensor) -> Tensor:
    return keys @ q / math.sqrt(len(q))


def _share(prefix_scores: Tensor, scores: Tensor) -> Tensor:
    """Return what softmax over all scores gives to the prefix."""
    return torch.sigmoid(prefix_scores.logsumexp(0) - scores.logsumexp(0))


def _share_slips(q: Tensor, keys: Tensor, _: Tensor, prefix_keys: Tensor, __: Tensor) -> Slips:
    n, seq, d = len(prefix_keys), len(keys), len(q)
    before, after = _scores(q, prefix_keys), _scores(q, keys)
    one_softmax = torch.cat([before, after]).softmax(0)
    unscaled, by_d = (_share(before * s, after * s).item() for s in (math.sqrt(d), d**-0.5))
    return (
        (1 - _share(before, after).item(), "that is the share of the content; a is the prefix's"),
        (unscaled, "the scores are not divided by the root of d"),
        (by_d, "the scores are divided by d; it is the root of d"),
        (
            1.0,
            "a softmax over the prefix alone sums to 1; a is its part of one softmax over "
            "prefix and content together",
        ),
        (0.5, "two softmaxes, each over its own part, count the same; take one over all scores"),
        (
            n / (n + seq),
            "that is the prefix's share of the places; the scores say how much "
            "attention goes there",
        ),
        (one_softmax[:n].mean().item(), "that is the mean of the prefix's weights; a is their sum"),
        (
            one_softmax[0].item(),
            "that is the weight of the first prefix alone; a is the sum of all",
        ),
        (
            torch.sigmoid(before.sum() - after.sum()).item(),
            "the scores are added up before the exponential; add the exponentials",
        ),
        (
            (before.exp().sum() / after.exp().sum()).item(),
            "that is the prefix by the content; a is the prefix by both",
        ),
        (
            before.exp().sum().item(),
            "that is the sum of the prefix's exponentials; divide by that of all",
        ),
    )


def _output_slips(
    q: Tensor, keys: Tensor, values: Tensor, prefix_keys: Tensor, prefix_values: Tensor
) -> Slips:
    before, after = _scores(q, prefix_keys), _scores(q, keys)
    a = _share(before, after)
    content, prefix = after.softmax(0) @ values, before.softmax(0) @ prefix_values
    larger = q * math.sqrt(len(q))
    unscaled = _mixture(larger, keys, values, prefix_keys, prefix_values)[1]
    parts = (keys @ q).softmax(0) @ values, (prefix_keys @ q).softmax(0) @ prefix_values
    root_is_left_out = "a is right, but here the scores are not divided by the root of d"
    return (
        *_share_of_output_slips(a, content, prefix),
        (unscaled, root_is_left_out),
        ((1 - a) * parts[0] + a * parts[1], root_is_left_out),
        (
            (1 - a) * content + a * prefix_values.mean(0),
            "the prefix's values are averaged; they, too, have the "
            "weights of a softmax over their scores",
        ),
        (
            (1 - a) * content + a * prefix_values.sum(0),
            "the prefix's values are added up without weights",
        ),
    )


def _share_of_output_slips(a: Tensor, content: Tensor, prefix: Tensor) -> Slips:
    return (
        (a * content + (1 - a) * prefix, "the shares are swapped: a goes to the prefix"),
        (
            content + prefix,
            "two softmaxes side by side add up to weights of 2; the content keeps "
            "only 1 - a of its weight",
        ),
        (
            (content + prefix) / 2,
            "half and half is not what one softmax gives: the content has 1 - a, the prefix a",
        ),
        (
            content + a * prefix,
            "the content keeps all its weight; what the prefix takes, it loses: 1 - a is left",
        ),
        ((1 - a) * content + prefix, "the prefix's part is not weighted with a"),
        ((1 - a) * content, "the prefix's own values are missing"),
        (content, "that is the attention without a prefix"),
        (prefix, "that is the attention on the prefix alone"),
        (
            (1 - a) ** 2 * content + a**2 * prefix,
            "the shares are in twice: weights from the one softmax hold them already",
        ),
    )


def _mixture(
    q: Tensor, keys: Tensor, values: Tensor, prefix_keys: Tensor, prefix_values: Tensor
) -> tuple[Tensor, Tensor]:
    scores, prefix_scores = keys @ q / len(q) ** 0.5, prefix_keys @ q / len(q) ** 0.5
    a = torch.cat([prefix_scores, scores]).softmax(0)[: len(prefix_keys)].sum()
    content, prefix = scores.softmax(0) @ values, prefix_scores.softmax(0) @ prefix_values
    return a, (1 - a) * content + a * prefix  # arXiv:2110.04366, section 3.1


def _with_share(wrong: Callable[[Tensor, Tensor], Tensor | float]) -> Mixture:
    """Return an answer with a wrong share, made of the scores of prefix and content."""
    return lambda q, k, v, pk, pv: (
        wrong(_scores(q, pk), _scores(q, k)),
        _mixture(q, k, v, pk, pv)[1],
    )


def _with_output(wrong: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Mixture:
    """Return an answer with a wrong output, made of a, the content's part and the prefix's."""

    def answer(q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor) -> tuple[Tensor, Tensor]:
        a, content = _mixture(q, k, v, pk, pv)[0], _scores(q, k).softmax(0) @ v
        return a, wrong(a, content, _scores(q, pk).softmax(0) @ pv)

    return answer


MIXTURE = Check(
    name="06-mixture",
    verify=_verify_mixture,
    solution=_mixture,
    rejects=(
        (_with_share(lambda before, after: before.softmax(0).sum()), "the prefix alone sums to 1"),
        (_with_share(lambda before, after: 0.5), "two softmaxes"),
        (_with_share(lambda before, after: len(before) / (len(before) + len(after))), "places"),
        (_with_share(lambda before, after: 1 - _share(before, after)), "share of the content"),
        (_with_share(lambda before, after: torch.cat([before, after]).softmax(0)[0]), "first"),
        (_with_share(lambda before, after: _share(before, after) / len(before)), "the mean"),
        (_with_share(lambda before, after: torch.sigmoid(before.sum() - after.sum())), "add the"),
        (_with_share(lambda before, after: before.exp().sum() / after.exp().sum()), "by both"),
        (_with_share(lambda before, after: before.exp().sum()), "divide by that of all"),
        (lambda q, k, *rest: _mixture(q * len(q) ** 0.5, k, *rest), "not divided by the root"),
        (lambda q, k, *rest: _mixture(q / len(q) ** 0.5, k, *rest), "divided by d; it"),
        (lambda *x: (_mixture(*x)[0], _mixture(x[0] * len(x[0]) ** 0.5, *x[1:])[1]), "a is right"),
        (_with_output(lambda a, content, prefix: content + prefix), "weights of 2"),
        (_with_output(lambda a, content, prefix: (content + prefix) / 2), "half and half"),
        (_with_output(lambda a, content, prefix: a * content + (1 - a) * prefix), "are swapped"),
        (_with_output(lambda a, content, prefix: content + a * prefix), "all its weight"),
        (_with_output(lambda a, content, prefix: (1 - a) * content + prefix), "not weighted"),
        (_with_output(lambda a, content, prefix: (1 - a) * content), "values are missing"),
        (_with_output(lambda a, content, prefix: content), "without a prefix"),
        (_with_output(lambda a, content, prefix: prefix), "prefix alone"),
        (_with_output(lambda a, c, p: (1 - a) ** 2 * c + a**2 * p), "in twice"),
        (
            lambda q, k, v, pk, pv: (
                _mixture(q, k, v, pk, pv)[0],
                _with_output(lambda a, c, p: (1 - a) * c + a * pv.mean(0))(q, k, v, pk, pv)[1],
            ),
            "averaged",
        ),
        (
            lambda q, k, v, pk, pv: (
                _mixture(q, k, v, pk, pv)[0],
                _with_output(lambda a, c, p: (1 - a) * c + a * pv.sum(0))(q, k, v, pk, pv)[1],
            ),
            "without weights",
        ),
        (lambda *x: _mixture(*x)[1], "two things"),
    ),
    insight="Every token of the content keeps the same part, 1 - a, of its weight: in one layer a "
    "prefix cannot change which of them gets more.",
)
