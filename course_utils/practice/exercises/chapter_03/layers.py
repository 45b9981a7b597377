"""A layer's weight restored from four bits before it multiplies."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_tensor
from course_utils.practice.exercises.material import draw
from course_utils.quantization import (
    QuantizedTensor,
    dequantize_blockwise,
    nf4_codebook,
    quantize_blockwise,
)

Restore = Callable[[Tensor, Tensor, Tensor, Tensor, tuple[int, int], int], Tensor]


def _layer(d_out: int, d_in: int, block_size: int) -> tuple[Tensor, QuantizedTensor]:
    weight = draw(d_out, d_in, seed=1)
    return draw(3, d_in), quantize_blockwise(weight, nf4_codebook(), block_size)


def _verify_restore(matmul: Restore) -> None:
    # A square weight with two blocks a row, then blocks that run over the ends of rows.
    for d_out, d_in, block_size in ((16, 16, 8), (6, 20, 8)):
        x, stored = _layer(d_out, d_in, block_size)
        weight, inputs = dequantize_blockwise(stored), x.clone().requires_grad_()
        parts = (stored.packed, stored.scales, stored.codebook, (d_out, d_in), block_size)
        answer = matmul(inputs, *parts)
        slips = [(slip(x, *parts), sentence) for slip, sentence in _SLIPS]
        if d_out == d_in:
            slips.append((x @ weight, "that is x W; a linear layer computes x W^T (transpose W)"))
        what = f"the output for a weight of {d_out} x {d_in}"
        expect_tensor(answer, x @ weight.T, what=what, slips=slips)
        if answer.grad_fn is None:
            raise Wrong(
                "the output is right, but no gradient reaches x: the layer is frozen, yet the "
                "adapters below it learn through it (no torch.no_grad, no detach)"
            )
        (gradient,) = torch.autograd.grad(answer.sum(), inputs)
        expect_tensor(gradient, weight.sum(0).expand_as(x), what="x's gradient")


def _restored(
    packed: Tensor, scales: Tensor, levels: Tensor, shape: tuple[int, int], block_size: int
) -> Tensor:
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()
    return (levels[codes].view(-1, block_size) * scales[:, None]).view(shape)


def _matmul(x: Tensor, *stored: Any) -> Tensor:  # noqa: ANN401
    return x @ _restored(*stored).T


def _matmul_swapped(x: Tensor, packed: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    return _matmul(x, packed << 4 | packed >> 4, *rest)


def _matmul_per_row(
    x: Tensor, packed: Tensor, scales: Tensor, levels: Tensor, shape: tuple[int, int], size: int
) -> Tensor:
    return x @ (_restored(packed, scales * 0 + 1, levels, shape, size) * scales[: shape[0], None]).T


def _matmul_not_transposed(x: Tensor, *stored: Any) -> Tensor:  # noqa: ANN401
    return x @ _restored(*stored)


def _matmul_unscaled(x: Tensor, packed: Tensor, scales: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    return _matmul(x, packed, scales * 0 + 1, *rest)


def _matmul_halves_apart(
    x: Tensor, packed: Tensor, scales: Tensor, levels: Tensor, shape: tuple[int, int], size: int
) -> Tensor:
    codes = torch.cat([packed >> 4, packed & 15])
    return x @ (levels[codes.long()].view(-1, size) * scales[:, None]).view(shape).T


_SLIPS = (
    (_matmul_swapped, "neighbours are swapped: the first code of a byte is its high half"),
    (
        _matmul_halves_apart,
        "the two codes of a byte lie side by side in the weight: stack the "
        "halves, do not append one to the other",
    ),
    (_matmul_unscaled, "the levels were not multiplied by their blocks' scales"),
    (
        _matmul_per_row,
        "that gives every row a scale, but blocks run over the flattened weight: "
        "each block_size weights have one",
    ),
)


def _matmul_without_gradient(*arguments: Any) -> Tensor:  # noqa: ANN401
    with torch.no_grad():
        return _matmul(*arguments)


RESTORE = Check(
    name="03-restore",
    verify=_verify_restore,
    solution=_matmul,
    rejects=(
        (_matmul_swapped, "neighbours are swapped"),
        (_matmul_per_row, "gives every row a scale"),
        (_matmul_not_transposed, "x W^T"),
        (_matmul_unscaled, "not multiplied"),
        (_matmul_halves_apart, "side by side"),
        (_matmul_without_gradient, "no gradient reaches x"),
    ),
    insight="NF4Linear does the same, but restores the weight again in the backward pass.",
)
