"""Updates of other shapes: DyLoRA cut to a lower rank, and NOLA's mix of random bases."""

from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.practice.exercises.check import Check
from course_utils.practice.exercises.compare import expect_tensor
from course_utils.practice.exercises.material import draw, draw_layer


def _verify_truncate(at_rank: Callable[..., Tensor]) -> None:
    d_out, d_in, rank, alpha = 5, 7, 6, 12.0
    x, (W, A, B) = draw(2, 3, d_in), draw_layer(d_out, d_in, rank)

    def update(ranks: slice) -> Tensor:
        return x @ A[ranks].T @ B[:, ranks].T

    base = x @ W.T
    for b in (3, 1, rank):
        first, everything = update(slice(b)), update(slice(None))
        expect_tensor(
            at_rank(x, W, A, B, alpha, b),
            base + alpha / b * first,
            slips=(
                (
                    base + alpha / rank * first,
                    "the first b ranks are right, but the scale is "
                    "alpha / r; DyLoRA trains rank b with alpha / b",
                ),
                (base + alpha / rank * everything, "that is the full rank, whatever b is"),
                (
                    base + alpha / b * everything,
                    "all ranks are still in: cut A to its first b "
                    "rows and B to its first b columns",
                ),
                (
                    base + alpha / b * update(slice(rank - b, None)),
                    "those are the last b ranks; "
                    "training made the first ones able to do without the others",
                ),
                (
                    base + alpha / b * update(slice(b - 1, b)),
                    "that is the b-th rank alone, not the first b",
                ),
                (base + first, "the update is not scaled by alpha / b"),
                (alpha / b * first, "the frozen layer's own output, x W^T, is missing"),
            ),
        )


def _at_rank(x: Tensor, W: Tensor, A: Tensor, B: Tensor, alpha: float, b: int) -> Tensor:
    return x @ W.T + alpha / b * x @ A[:b].T @ B[:, :b].T


TRUNCATE = Check(
    name="04-truncate",
    verify=_verify_truncate,
    solution=_at_rank,
    rejects=(
        (
            lambda x, W, A, B, alpha, b: x @ W.T + alpha / len(A) * x @ A[:b].T @ B[:, :b].T,
            "the scale is alpha / r",
        ),
        (
            lambda x, W, A, B, alpha, b: x @ W.T + alpha / len(A) * x @ A.T @ B.T,
            "full rank",
        ),
        (
            lambda x, W, A, B, alpha, b: x @ W.T + alpha / b * x @ A[-b:].T @ B[:, -b:].T,
            "last b ranks",
        ),
        (
            lambda x, W, A, B, alpha, b: x @ W.T + alpha / b * x @ A.T @ B.T,
            "all ranks are still in",
        ),
        (
            lambda x, W, A, B, alpha, b: (
                x @ W.T + alpha / b * x @ A[b - 1 : b].T @ B[:, b - 1 : b].T
            ),
            "b-th rank alone",
        ),
        (lambda x, W, A, B, alpha, b: x @ W.T + x @ A[:b].T @ B[:, :b].T, "not scaled"),
        (lambda x, W, A, B, alpha, b: alpha / b * x @ A[:b].T @ B[:, :b].T, "is missing"),
        (lambda x, W, A, B, alpha, b: x @ W.T + x @ A[:b].T @ B[:b].T, "raised RuntimeError"),
    ),
    insight="That is the LoRA layer of rank b, cut out of the larger one without a training.",
)


def _verify_nola(nola_update: Callable[..., Tensor]) -> None:
    n, d_out, d_in, rank, alpha = 5, 6, 7, 2, 3.0
    a, b = draw(2, n)
    A_bases, B_bases = draw(n, rank, d_in, seed=1), draw(n, d_out, rank, seed=2)
    A, B = torch.einsum("n,nrd->rd", a, A_bases), torch.einsum("n,ndr->dr", b, B_bases)
    scaling = alpha / rank
    paired = torch.einsum("n,ndr,nrk->dk", a * b, B_bases, A_bases)
    expect_tensor(
        nola_update(a, b, A_bases, B_bases, alpha),
        scaling * B @ A,
        slips=(
            *(
                (
                    factor * paired,
                    "you pair the bases up, B_1 A_1 + B_2 A_2 + ...: first mix A and "
                    "B, each on its own, then multiply once",
                )
                for factor in (scaling, 1)
            ),
            (B @ A, "the scaling alpha / r is missing"),
            (alpha * B @ A, "the factor is alpha, not divided by the rank"),
            (
                alpha / n * B @ A,
                "you divide alpha by the number of bases; the rank is the inner "
                "dimension, A_bases.shape[1]",
            ),
            (
                scaling * B_bases.sum(0) @ A_bases.sum(0),
                "the coefficients are missing: nothing that is trained is in it",
            ),
            (
                scaling
                * torch.einsum("n,ndr->dr", a, B_bases)
                @ torch.einsum("n,nrd->rd", b, A_bases),
                "the coefficients are swapped: a mixes the bases of A, b those of B",
            ),
        ),
    )


def _nola_update(a: Tensor, b: Tensor, A_bases: Tensor, B_bases: Tensor, alpha: float) -> Tensor:
    A = torch.einsum("n,nrd->rd", a, A_bases)
    B = torch.einsum("n,ndr->dr", b, B_bases)
    return alpha / A_bases.shape[1] * B @ A


def _nola_paired(a: Tensor, b: Tensor, A_bases: Tensor, B_bases: Tensor, alpha: float) -> Tensor:
    pairs = zip(a, b, A_bases, B_bases, strict=True)
    total = sum(a_i * b_i * B_i @ A_i for a_i, b_i, A_i, B_i in pairs)
    return alpha / A_bases.shape[1] * total


NOLA = Check(
    name="04-nola",
    verify=_verify_nola,
    solution=_nola_update,
    rejects=(
        (_nola_paired, "pair the bases up"),
        (lambda a, b, As, Bs, alpha: _nola_paired(a, b, As, Bs, As.shape[1]), "pair the bases up"),
        (lambda a, b, As, Bs, alpha: _nola_update(a, b, As, Bs, As.shape[1]), "is missing"),
        (lambda a, b, As, Bs, alpha: alpha * _nola_update(a, b, As, Bs, 2), "not divided"),
        (lambda a, b, As, Bs, alpha: _nola_update(a, b, As, Bs, alpha * 2 / 5), "number of bases"),
        (lambda a, b, As, Bs, alpha: alpha / 2 * Bs.sum(0) @ As.sum(0), "coefficients are missing"),
        (lambda a, b, As, Bs, alpha: _nola_update(b, a, As, Bs, alpha), "are swapped"),
    ),
    insight="Its rank is r, and what is stored are 2 n numbers and a seed, whatever r and the "
    "width of the layer are.",
)
