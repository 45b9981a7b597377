"""The update in use: a layer's forward pass, and the weight it is merged into."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_tensor
from course_utils.practice.exercises.material import draw, draw_layer


def _verify_forward(forward: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> None:
    alpha = 6
    # Square first: there a transposed matrix still multiplies, and can be told by its result.
    for d_out, d_in, rank in ((8, 8, 4), (5, 8, 4), (8, 5, 2)):
        x, (W, A, B) = draw(2, 3, d_in), draw_layer(d_out, d_in, rank)
        base, update = x @ W.T, x @ A.T @ B.T
        result = forward(x, W, A, B, alpha)
        scaled = (
            (0, "the update is missing: with B not zero, the layer must differ from its base"),
            (1, "the update is not scaled: multiply it by alpha / r"),
            (alpha, "the update is scaled by alpha; divide by the rank as well"),
            (alpha / d_in, "alpha is divided by d_in: the rank is the number of rows of A"),
            (alpha / math.sqrt(rank), "alpha / sqrt(r) is rsLoRA's scaling; here it is alpha / r"),
            (rank / alpha, "the scaling is upside down: alpha / r, not r / alpha"),
        )
        slips = [(base + scaling * update, sentence) for scaling, sentence in scaled]
        slips.append((alpha / rank * update, "the frozen layer's own x W^T is missing"))
        if d_in == d_out:
            slips += [
                (
                    base + alpha / rank * x @ B @ A,
                    "the update is transposed: x B A runs only "
                    "because the layer is square; it is x A^T B^T",
                ),
                (
                    x @ W + alpha / rank * update,
                    "W is transposed: a layer of d_in to d_out stores (d_out, d_in), so x W^T",
                ),
            ]
        expect_tensor(result, base + alpha / rank * update, slips=slips)


def _forward(x: Tensor, W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return x @ W.T + alpha / len(A) * (x @ A.T @ B.T)


FORWARD = Check(
    name="02-forward",
    verify=_verify_forward,
    solution=_forward,
    rejects=(
        (lambda x, W, A, B, alpha: x @ W.T + x @ A.T @ B.T, "not scaled"),
        (lambda x, W, A, B, alpha: x @ W.T + alpha * (x @ A.T @ B.T), "scaled by alpha"),
        (lambda x, W, A, B, alpha: x @ W.T + alpha / A.shape[1] * (x @ A.T @ B.T), "by d_in"),
        (lambda x, W, A, B, alpha: x @ W.T + alpha / len(A) ** 0.5 * (x @ A.T @ B.T), "rsLoRA"),
        (lambda x, W, A, B, alpha: x @ W.T + len(A) / alpha * (x @ A.T @ B.T), "upside down"),
        (lambda x, W, A, B, alpha: x @ W.T + alpha / len(A) * (x @ B @ A), "is transposed"),
        (lambda x, W, A, B, alpha: x @ W + alpha / len(A) * (x @ A.T @ B.T), "W is transposed"),
        (lambda x, W, A, B, alpha: alpha / len(A) * (x @ A.T @ B.T), "x W^T is missing"),
        (lambda x, W, A, B, alpha: x @ W.T, "update is missing"),
    ),
    insight="x A^T first, then B^T: the product B A, as large as W, need never exist.",
)


def _verify_merge(merged: Callable[[Tensor, Tensor, Tensor, float, bool], Tensor]) -> None:
    alpha = 6
    # In the first case all sides are equal, so that every order of the factors multiplies.
    for d_out, d_in, rank in ((4, 4, 4), (8, 8, 4), (8, 5, 4), (5, 8, 2)):
        for use_rslora in (False, True):
            W, A, B = draw_layer(d_out, d_in, rank)
            result = merged(W, A, B, alpha, use_rslora)
            if not torch.equal(W, draw_layer(d_out, d_in, rank)[0]):
                raise Wrong("it changed W itself, and the way back is lost; return a new tensor")
            plain, root = alpha / rank, alpha / math.sqrt(rank)
            scaling, other = (root, plain) if use_rslora else (plain, root)
            slips = [
                (
                    W + other * B @ A,
                    f"with use_rslora={use_rslora} alpha is divided by "
                    + ("the root of the rank, not the rank" if use_rslora else "the rank itself"),
                ),
                (W + B @ A, "the update is not scaled"),
                (W + alpha * B @ A, "scaled by alpha alone; divide by the rank or its root"),
                (W + alpha / rank**2 * B @ A, "the square of the rank is not its root"),
                (scaling * B @ A, "that is the update alone: add it to W"),
                (W - scaling * B @ A, "the update is subtracted: that is how to unmerge"),
            ]
            if d_out == d_in:
                turned = "the update is transposed: only a square W can hide that; it is B A"
                slips.append((W + scaling * (B @ A).T, turned))
            if d_out == d_in == rank:
                order = "A B is (r, r) and fits only where all sides are equal; the update is B A"
                slips += [(W + scaling * A @ B, order), (W + scaling * (A @ B).T, order)]
            expect_tensor(result, W + scaling * B @ A, slips=slips)


def _merged(W: Tensor, A: Tensor, B: Tensor, alpha: float, use_rslora: bool) -> Tensor:
    rank = len(A)
    scaling = alpha / (math.sqrt(rank) if use_rslora else rank)
    return W + scaling * B @ A


def _merged_in_place(W: Tensor, A: Tensor, B: Tensor, alpha: float, use_rslora: bool) -> Tensor:
    W += _merged(torch.zeros_like(W), A, B, alpha, use_rslora)
    return W


def _update(A: Tensor, B: Tensor, alpha: float, use_rslora: bool) -> Tensor:
    return _merged(B.new_zeros(len(B), A.shape[1]), A, B, alpha, use_rslora)


MERGE = Check(
    name="02-merge",
    verify=_verify_merge,
    solution=_merged,
    rejects=(
        (lambda W, A, B, alpha, rs: W + alpha / len(A) ** (0.5 if rs else 1) * A @ B, "A B is"),
        (lambda W, A, B, alpha, rs: W + _update(A, B, alpha, rs).T, "only a square W"),
        (lambda W, A, B, alpha, rs: _merged(W, A, B, alpha, False), "the root of the rank, not"),
        (lambda W, A, B, alpha, rs: _merged(W, A, B, alpha, True), "the rank itself"),
        (lambda W, A, B, alpha, rs: W + alpha / len(A) ** (2 if rs else 1) * B @ A, "not its root"),
        (lambda W, A, B, alpha, rs: W + alpha * B @ A, "divide by the rank or its root"),
        (lambda W, A, B, alpha, rs: W + B @ A, "not scaled"),
        (lambda W, A, B, alpha, rs: _update(A, B, alpha, rs), "update alone"),
        (lambda W, A, B, alpha, rs: W - _update(A, B, alpha, rs), "unmerge"),
        (_merged_in_place, "changed W itself"),
    ),
    insight="One matrix of the old shape: nothing at inference tells that there was an adapter.",
)
