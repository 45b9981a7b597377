"""DoRA: magnitude times direction, how far each has moved, and what the magnitudes add."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import (
    Slips,
    expect_close,
    expect_tensor,
    is_near_tensor,
)
from course_utils.practice.exercises.material import draw, draw_layer, linear_shapes


def _verify_dora(dora_weight: Callable[..., Tensor]) -> None:
    # Not square, and not at the start: B and m have both moved.
    d_out, d_in, rank, scaling = 5, 7, 2, 2.0
    (W, A, B), m = draw_layer(d_out, d_in, rank), 1 + draw(d_out).abs()
    slips = _dora_slips(W, A, B, m, scaling)
    expect_tensor(dora_weight(W, A, B, m, scaling), _dora_weight(W, A, B, m, scaling), slips=slips)


def _dora_slips(W: Tensor, A: Tensor, B: Tensor, m: Tensor, scaling: float) -> Slips:
    V, column = W + scaling * B @ A, m[:, None]
    norms = V.norm(dim=1, keepdim=True)
    return (
        (
            column * V / V.norm(dim=0),
            "the norm runs over the other axis: take one a row, "
            "over the d_in weights that feed one output",
        ),
        (column * V / V.norm(), "that is one norm for the whole matrix: take one a row"),
        (
            column * V / W.norm(dim=1, keepdim=True),
            "you divide by the norms of W alone; the "
            "direction is a unit vector only if it is divided by the norms of W + scaling B A",
        ),
        (V / norms, "the magnitudes are missing: every row has length 1"),
        (
            column * V,
            "each row is stretched by m, but nothing has brought it to length 1 first",
        ),
        (
            W + column * V / norms,
            "the base is added twice: m times the direction is the whole weight, W inside",
        ),
        (
            W + column * _normalised(V - W),
            "only the change is given "
            "a direction; DoRA takes the length and the direction of the whole row W + B A",
        ),
        (column * _normalised(W + B @ A), "the update B A is not scaled"),
        (column * V / norms.square(), "that divides by the squared norm: take its root"),
        (column * _normalised(2 * W - V), "the update is subtracted; it is W + scaling B A"),
        (
            W.norm(dim=1, keepdim=True) * V / norms,
            "the rows have the lengths of W: m has moved since the start, so use m",
        ),
        (V, "that is LoRA's weight: neither length nor direction is in it"),
    )


def _dora_weight(W: Tensor, A: Tensor, B: Tensor, m: Tensor, scaling: float) -> Tensor:
    V = W + scaling * B @ A
    return m[:, None] * V / V.norm(dim=1, keepdim=True)


def _normalised(V: Tensor, dim: int = 1) -> Tensor:
    return V / V.norm(dim=dim, keepdim=True)


def _squares(V: Tensor) -> Tensor:
    return V.square().sum(dim=1, keepdim=True)


DORA = Check(
    name="04-dora",
    verify=_verify_dora,
    solution=_dora_weight,
    rejects=(
        (lambda W, A, B, m, s: m[:, None] * _normalised(W + s * B @ A, dim=0), "other axis"),
        (lambda W, A, B, m, s: m[:, None] * (W + s * B @ A) / W.norm(dim=1)[:, None], "of W alone"),
        (lambda W, A, B, m, s: _normalised(W + s * B @ A), "magnitudes are missing"),
        (lambda W, A, B, m, s: W + m[:, None] * _normalised(W + s * B @ A), "added twice"),
        (lambda W, A, B, m, s: W + m[:, None] * _normalised(s * B @ A), "only the change"),
        (lambda W, A, B, m, s: m[:, None] * _normalised(W + B @ A), "not scaled"),
        (lambda W, A, B, m, s: m[:, None] * (W + s * B @ A), "brought it to length 1"),
        (lambda W, A, B, m, s: m[:, None] * (W + s * B @ A) / (W + s * B @ A).norm(), "whole mat"),
        (lambda W, A, B, m, s: W + s * B @ A, "LoRA's weight"),
        (
            lambda W, A, B, m, s: m[:, None] * (W + s * B @ A) / _squares(W + s * B @ A),
            "squared norm",
        ),
        (lambda W, A, B, m, s: _dora_weight(W, A, B, m, -s), "subtracted"),
        (lambda W, A, B, m, s: _dora_weight(W, A, B, W.norm(dim=1), s), "lengths of W"),
        (lambda W, A, B, m, s: m * _normalised(W + s * B @ A), "raised RuntimeError"),
        (lambda W, A, B, m, s: _dora_weight(W, A, B, m, s).T, "transpose"),
    ),
    insight="Every row now has exactly the length m asks for, whatever A and B do.",
)


def _verify_decompose(changes: Callable[[Tensor, Tensor], tuple[float, float]]) -> None:
    before = draw(6, 4)
    # Some rows grow and some shrink.
    factors = torch.tensor([0.3, 0.5, 1.1, 1.3, 0.4, 1.2])[:, None]
    after = factors * (before + 0.5 * draw(6, 4, seed=1))
    found = changes(before, after)
    if not isinstance(found, tuple | list | Tensor) or torch.Size([2]) != _size(found):
        raise Wrong("return two numbers: the change of magnitude and the change of direction")
    magnitude, direction = _changes(before, after)
    numbers, swapped = torch.as_tensor(found), torch.tensor([direction, magnitude])
    if is_near_tensor(numbers, swapped, rel=1e-3):
        raise Wrong("the two are right but swapped: magnitude first, direction second")
    expect_close(
        found[0],
        magnitude,
        what="the change of magnitude",
        rel=1e-3,
        slips=_magnitude_slips(before, after),
    )
    expect_close(
        found[1],
        direction,
        what="the change of direction",
        rel=1e-3,
        slips=_direction_slips(before, after),
    )


def _magnitude_slips(before: Tensor, after: Tensor) -> Slips:
    columns = _changes(before.T, after.T)
    signed = (after.norm(dim=1) - before.norm(dim=1)).mean().item()
    return (
        *(
            (
                wrong,
                "some rows grow and others shrink, and in your mean the two cancel: take the "
                "absolute value of each row first",
            )
            for wrong in (signed, -signed)
        ),
        (
            (after - before).norm(dim=1).mean().item(),
            "that is the length of the change, which "
            "a mere rotation has too; asked is the change of the length",
        ),
        (
            _changes(before, after)[0] * len(before),
            "that is the sum over the rows; asked is their mean",
        ),
        (
            ((after.norm(dim=1) - before.norm(dim=1)).abs() / before.norm(dim=1)).mean().item(),
            "that is the change relative to the length before; asked is the difference itself",
        ),
        (
            abs(after.norm() - before.norm()).item(),
            "that is the norm of the whole matrix; take one norm for each row",
        ),
        (
            columns[0],
            "those are the norms of the columns; a row holds the weights of one output",
        ),
    )


def _direction_slips(before: Tensor, after: Tensor) -> Slips:
    direction, columns = _changes(before, after)[1], _changes(before.T, after.T)
    return (
        (
            1 - direction,
            "that is the mean cosine, which is 1 where nothing has turned; asked is one minus it",
        ),
        (direction * len(before), "that is the sum over the rows; asked is their mean"),
        (
            1 - torch.cosine_similarity(before.flatten(), after.flatten(), dim=0).item(),
            "that is one cosine for the whole matrix; take one for each row",
        ),
        (
            torch.cosine_similarity(before, after, dim=1).arccos().mean().item(),
            "that is the angle; asked is one minus its cosine",
        ),
        (-direction, "one minus the cosine, not the cosine minus one"),
        (columns[1], "those are the cosines of the columns; take them row by row"),
        (
            1 - (before * after).sum(dim=1).mean().item(),
            "a dot product is a cosine only after both rows are divided by their norms",
        ),
    )


def _size(found: Sequence[float] | Tensor) -> torch.Size:
    return found.shape if isinstance(found, Tensor) else torch.Size([len(found)])


def _changes(before: Tensor, after: Tensor) -> tuple[float, float]:
    magnitude = (after.norm(dim=1) - before.norm(dim=1)).abs().mean()
    direction = 1 - torch.cosine_similarity(before, after, dim=1).mean()
    return magnitude.item(), direction.item()


def _changes_signed(before: Tensor, after: Tensor) -> tuple[float, float]:
    return (after.norm(dim=1) - before.norm(dim=1)).mean().item(), _changes(before, after)[1]


def _changes_abs_late(before: Tensor, after: Tensor) -> tuple[float, float]:
    return abs(_changes_signed(before, after)[0]), _changes(before, after)[1]


def _changes_with_cosine(before: Tensor, after: Tensor) -> tuple[float, float]:
    magnitude, direction = _changes(before, after)
    return magnitude, 1 - direction


def _changes_of_difference(before: Tensor, after: Tensor) -> tuple[float, float]:
    return (after - before).norm(dim=1).mean().item(), _changes(before, after)[1]


def _changes_with_dot(before: Tensor, after: Tensor) -> tuple[float, float]:
    return _changes(before, after)[0], 1 - (before * after).sum(dim=1).mean().item()


DECOMPOSE = Check(
    name="04-decompose",
    verify=_verify_decompose,
    solution=_changes,
    rejects=(
        (lambda before, after: _changes(before.T, after.T), "columns"),
        (_changes_signed, "the two cancel"),
        (_changes_abs_late, "each row first"),
        (_changes_with_cosine, "mean cosine"),
        (_changes_of_difference, "length of the change"),
        (_changes_with_dot, "dot product"),
        (lambda b, a: (6 * _changes(b, a)[0], _changes(b, a)[1]), "sum over the rows"),
        (lambda b, a: (_changes(b, a)[0], 6 * _changes(b, a)[1]), "sum over the rows"),
        (lambda b, a: (abs(a.norm() - b.norm()), 0.0), "norm of the whole matrix"),
        (
            lambda b, a: (((a.norm(dim=1) / b.norm(dim=1)) - 1).abs().mean(), 0.0),
            "relative to the length before",
        ),
        (
            lambda b, a: (
                _changes(b, a)[0],
                1 - torch.cosine_similarity(b.flatten(), a.flatten(), dim=0),
            ),
            "one cosine for the whole matrix",
        ),
        (
            lambda b, a: (
                _changes(b, a)[0],
                torch.cosine_similarity(b, a, dim=1).arccos().mean(),
            ),
            "the angle",
        ),
        (lambda before, after: _changes(before, after)[::-1], "swapped"),
        (lambda before, after: _changes(before, after)[0], "two numbers"),
        (lambda before, after: (after - before).norm(dim=1), "two numbers"),
    ),
    insight="These are the two axes of the paper's figure (equations 3 and 4).",
)


def _verify_count(count: Callable[[int], int]) -> None:
    shapes = linear_shapes()
    for rank in (1, 8, 16):
        value = count(rank)
        lora = sum(rank * (d_in + d_out) for d_out, d_in in shapes)
        if value == lora + sum(d_out for d_out, _ in shapes):
            continue
        if value == lora:
            raise Wrong("that is LoRA's count: the magnitudes, one for every row, train too")
        if value == lora + sum(d_in for _, d_in in shapes):
            raise Wrong("that is a magnitude for every input: m has d_out entries, one a row")
        if value == lora + len(shapes):
            raise Wrong("that is one magnitude for each layer: m has one entry for each row")
        if value == sum(rank * (d_in + d_out) + d_out for d_out, d_in in shapes[:7]):
            raise Wrong("that is one block of six")
        raise Wrong(
            f"for rank {rank} it is not {value!r}; write down r (d_in + d_out) + d_out "
            "for each of a block's seven layers"
        )


def _count(rank: int) -> int:
    square = rank * (256 + 256) + 256
    up = rank * (256 + 512) + 512
    down = rank * (512 + 256) + 256
    return 6 * (4 * square + 2 * up + down)


COUNT = Check(
    name="04-count",
    verify=_verify_count,
    solution=_count,
    rejects=(
        (lambda rank: 6 * rank * (4 * 512 + 3 * 768), "LoRA's count"),
        (lambda rank: 6 * (rank * (4 * 512 + 3 * 768) + 6 * 256 + 512), "every input"),
        (lambda rank: 6 * (rank * (4 * 512 + 3 * 768) + 7), "one magnitude for each layer"),
        (lambda rank: _count(rank) // 6, "one block of six"),
        (lambda rank: 6 * 4 * (512 * rank + 256), "seven layers"),
    ),
    insight="The magnitudes are 13,824 numbers at every rank: half of LoRA's 26,112 at rank 1, "
    "a thirtieth at rank 16.",
)
