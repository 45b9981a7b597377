"""The weighted mean of two adapters as one wider adapter."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu

from course_utils.practice.exercises.chapter_05.reference import Adapter, adapt, draw_adapter
from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_tensor
from course_utils.practice.exercises.material import draw


def _verify_average(average: Callable[[Adapter, Adapter, float], Sequence[Tensor]]) -> None:
    d_model = 6
    # Equal sizes first: there a mean of the weights still fits, and can be told by its result.
    for sizes, share in (((3, 3), 0.25), ((2, 4), 0.7)):
        first, second = (draw_adapter(d_model, m, 10 * m + i) for i, m in enumerate(sizes))
        found = average(first, second, share)
        _expect_adapter(found, d_model, sum(sizes))
        for f in (gelu, Tensor.tanh):
            h = draw(8, d_model)
            expected = share * adapt(h, first, f) + (1 - share) * adapt(h, second, f)
            slips = [
                (adapt(h, slip(first, second, share), f), sentence)
                for slip, sentence in _AVERAGE_SLIPS
                if sizes[0] == sizes[1] or slip not in _OF_EQUAL_SIZES
            ]
            what = f"the output with {f.__name__}"
            expect_tensor(adapt(h, tuple(found), f), expected, what=what, slips=slips)


def _expect_adapter(found: object, d_model: int, total_size: int) -> None:
    if not isinstance(found, tuple | list) or len(found) != 4:
        raise Wrong("return the four tensors of one adapter: D, b, U and c")
    for name, part in zip("DbUc", found, strict=True):
        if not isinstance(part, Tensor):
            raise Wrong(f"{name} must be a tensor, not {type(part).__name__}")
    D, b, U, c = found
    m = len(D) if D.ndim == 2 else 0
    wanted = ((m, d_model), (m,), (d_model, m), (d_model,))
    if D.shape != wanted[0]:
        raise Wrong(
            f"D has shape {tuple(D.shape)}; the rows of both stand below one another, "
            f"({total_size}, {d_model})"
        )
    for name, part, shape in zip("bUc", (b, U, c), wanted[1:], strict=True):
        if part.shape != shape:
            raise Wrong(
                f"{name} has shape {tuple(part.shape)}, and beside a D of {m} rows it must be "
                f"{shape}: b grows with the bottleneck, U gets its columns, c stays as long as h"
            )


def _average(first: Adapter, second: Adapter, share: float) -> Adapter:
    (D1, b1, U1, c1), (D2, b2, U2, c2) = first, second
    U = torch.cat([share * U1, (1 - share) * U2], dim=1)
    return torch.cat([D1, D2]), torch.cat([b1, b2]), U, share * c1 + (1 - share) * c2


def _mean_of_weights(first: Adapter, second: Adapter, share: float) -> Adapter:
    pairs = zip(first, second, strict=True)
    D, b, U, c = (share * one + (1 - share) * other for one, other in pairs)
    return D, b, U, c


def _with(adapter: Adapter, **parts: Tensor) -> Adapter:
    D, b, U, c = adapter
    now = {"D": D, "b": b, "U": U, "c": c} | parts
    return now["D"], now["b"], now["U"], now["c"]


def _unscaled(first: Adapter, second: Adapter, share: float) -> Adapter:
    U = torch.cat([first[2], second[2]], dim=1)
    return _with(_average(first, second, share), U=U, c=first[3] + second[3])


def _unscaled_up(first: Adapter, second: Adapter, share: float) -> Adapter:
    return _with(_average(first, second, share), U=torch.cat([first[2], second[2]], dim=1))


def _scaled_down(first: Adapter, second: Adapter, share: float) -> Adapter:
    D = torch.cat([share * first[0], (1 - share) * second[0]])
    b = torch.cat([share * first[1], (1 - share) * second[1]])
    return _with(_unscaled_up(first, second, share), D=D, b=b)


def _scaled_twice(first: Adapter, second: Adapter, share: float) -> Adapter:
    U = _average(first, second, share)[2]
    return _with(_scaled_down(first, second, share), U=U)


def _summed_bias(first: Adapter, second: Adapter, share: float) -> Adapter:
    return _with(_average(first, second, share), c=first[3] + second[3])


def _plain_bias(first: Adapter, second: Adapter, share: float) -> Adapter:
    return _with(_average(first, second, share), c=(first[3] + second[3]) / 2)


def _no_inner_bias(first: Adapter, second: Adapter, share: float) -> Adapter:
    averaged = _average(first, second, share)
    return _with(averaged, b=torch.zeros_like(averaged[1]))


def _no_outer_bias(first: Adapter, second: Adapter, share: float) -> Adapter:
    return _with(_average(first, second, share), c=torch.zeros_like(first[3]))


def _swapped(first: Adapter, second: Adapter, share: float) -> Adapter:
    return _average(first, second, 1 - share)


def _halves(first: Adapter, second: Adapter, share: float) -> Adapter:
    return _average(first, second, 0.5)


_AVERAGE_SLIPS = (
    (
        _mean_of_weights,
        "a mean of the weights is not a mean of the adapters: f of a mean is not "
        "the mean of f, and unit 1 of the one has nothing to do with unit 1 of the other",
    ),
    (_unscaled, "the shares are missing: that is the sum of both adapters"),
    (
        _unscaled_up,
        "U is not scaled: the first adapter's columns take the share, the second's the rest",
    ),
    (
        _scaled_down,
        "the shares are in D and b; behind f they would be a factor, before it they are not",
    ),
    (_scaled_twice, "the shares are in D and b, too; in U alone they are a factor"),
    (_summed_bias, "c is the sum of both; it is their mean, with the same shares as U"),
    (_plain_bias, "c takes half of each; take the same shares as for U"),
    (_no_inner_bias, "b is zero: lay the two behind one another, as the rows of D"),
    (_no_outer_bias, "c is zero: it is the mean of both, with the same shares as U"),
    (_swapped, "the shares are swapped: `share` is the first adapter's"),
    (_halves, "that takes half of each; take the share that is given"),
)
_OF_EQUAL_SIZES = (_mean_of_weights,)

AVERAGE = Check(
    name="05-average",
    verify=_verify_average,
    solution=_average,
    rejects=(
        *((slip, sentence) for slip, sentence in _AVERAGE_SLIPS),
        (lambda one, two, share: one, "off by up to"),
        (lambda one, two, share: _average(one, two, share)[0], "four tensors"),
        (lambda one, two, share: (*_average(one, two, share)[:3], 0.0), "c must be a tensor"),
        (
            lambda one, two, share: _with(
                _average(one, two, share), D=torch.cat([one[0], two[0]], dim=1)
            ),
            "below one another",
        ),
        (lambda one, two, share: _with(_average(one, two, share), b=one[1]), "b grows with"),
        (
            lambda one, two, share: _with(_average(one, two, share), U=torch.cat([one[2], two[2]])),
            "U gets its columns",
        ),
        (
            lambda one, two, share: _with(_average(one, two, share), c=torch.cat([one[3], two[3]])),
            "c stays as long as h",
        ),
    ),
    insight="The exact mean is as wide as both together: averaging adapters adds up their sizes.",
)
