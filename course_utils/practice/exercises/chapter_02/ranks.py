"""Updates of other ranks: the best approximation of a change, and adapters combined into one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_tensor, is_near_tensor, reject_slips
from course_utils.practice.exercises.material import draw

Adapter = tuple[Tensor, Tensor, float]


def _svd(change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.svd(change, full_matrices=False)


def _rank_of(matrix: Tensor) -> int:
    values = torch.linalg.svdvals(matrix.detach().double())
    return int((values > 1e-4 * values[0]).sum()) if len(values) else 0


def _verify_truncate(best_of_rank: Callable[[Tensor, int], Tensor]) -> None:
    # The tall one first: there Vh is square, so that taking its columns still multiplies.
    for shape, r in (((9, 6), 2), ((6, 9), 1), ((6, 9), 4)):
        change = draw(*shape)
        U, S, Vh = _svd(change)
        expected = U[:, :r] * S[:r] @ Vh[:r]
        result = best_of_rank(change.clone(), r)
        if is_near_tensor(result, expected):
            continue
        slips = (
            (U[:, :r] @ Vh[:r], "the singular values are missing: multiply by S between U and Vh"),
            (
                U[:, -r:] * S[-r:] @ Vh[-r:],
                "you kept the smallest singular values; torch sorts them from the largest down",
            ),
            (U[:, r:] * S[r:] @ Vh[r:], "that is what the best approximation leaves out"),
            (change, "that is the whole change: keep r of its singular values"),
        )
        reject_slips(result, slips)
        if len(Vh) == Vh.shape[1] and is_near_tensor(result, U[:, :r] * S[:r] @ Vh[:, :r].T):
            raise Wrong("torch returns Vh, transposed already: take its first r rows, Vh[:r]")
        if not isinstance(result, Tensor) or result.shape != change.shape:
            expect_tensor(result, expected)
        _complain_of_error(result, change, expected, r)


def _complain_of_error(result: Tensor, change: Tensor, expected: Tensor, r: int) -> None:
    if not torch.isfinite(result).all():
        raise Wrong("your result holds NaN or infinity")
    rank = _rank_of(result)
    if rank > r:
        raise Wrong(f"your result has rank {rank}, and {r} is asked")
    off, least = ((change - matrix).norm().item() for matrix in (result, expected))
    raise Wrong(
        f"of rank {r}, but not the best: it is {off:.3g} from the change (Frobenius norm), and "
        f"{least:.3g} is possible"
    )


def _best_of_rank(change: Tensor, r: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(change, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r]


def _project_at_random(change: Tensor, r: int) -> Tensor:
    Q, _ = torch.linalg.qr(draw(change.shape[1], r, seed=5))
    return change @ Q @ Q.T


def _keep_rows(change: Tensor, r: int) -> Tensor:
    kept = torch.zeros_like(change)
    kept[:r] = change[:r]
    return kept


def _keep_smallest(change: Tensor, r: int) -> Tensor:
    U, S, Vh = _svd(change)
    return U[:, -r:] * S[-r:] @ Vh[-r:]


def _forget_values(change: Tensor, r: int) -> Tensor:
    U, _, Vh = _svd(change)
    return U[:, :r] @ Vh[:r]


def _take_columns(change: Tensor, r: int) -> Tensor:
    U, S, Vh = _svd(change)
    return U[:, :r] * S[:r] @ Vh[:, :r].T


TRUNCATE = Check(
    name="02-truncate",
    verify=_verify_truncate,
    solution=_best_of_rank,
    rejects=(
        (_project_at_random, "not the best"),
        (_keep_rows, "not the best"),
        (lambda change, r: change[:r], "has shape"),
        (_keep_smallest, "smallest singular values"),
        (_forget_values, "singular values are missing"),
        (_take_columns, "Vh[:r]"),
        (lambda change, r: change - _best_of_rank(change, r), "leaves out"),
        (lambda change, r: change, "whole change"),
        (lambda change, r: _best_of_rank(change, r + 1), "has rank 3, and 2"),
    ),
    insight="No matrix of that rank is nearer (Eckart and Young, 1936): it is the mark that any "
    "update of rank r is measured against.",
)


def _weighted(adapters: Sequence[Adapter], factors: Sequence[float]) -> Tensor:
    return sum(factor * B @ A for (A, B, _), factor in zip(adapters, factors, strict=True))


def _verify_combine(
    combine: Callable[[list[Adapter], list[float]], tuple[Tensor, Tensor]],
) -> None:
    d_out, d_in = 8, 9
    # Equal ranks first: there the factors can be added element by element, which is the trap.
    for ranks, weights in (((2, 2), [0.5, 0.25]), ((2, 3, 1), [1.0, -0.5, 2.0]), ((3,), [0.75])):
        adapters = [
            (draw(rank, d_in, seed=10 + i), draw(d_out, rank, seed=20 + i), 2.0 + i)
            for i, rank in enumerate(ranks)
        ]
        A, B = _two_factors(combine(list(adapters), list(weights)), d_out, d_in)
        scalings = [scaling for _, _, scaling in adapters]
        both = [w * s for w, s in zip(weights, scalings, strict=True)]
        expected, update = _weighted(adapters, both), B @ A
        if is_near_tensor(update, expected):
            if len(A) > max(sum(ranks), min(d_out, d_in)):
                raise Wrong(f"right, but of rank {len(A)}: {sum(ranks)} is enough, the ranks' sum")
            continue
        slips = (
            (weights, "the scalings are left out: the result is used with a scaling of 1"),
            (scalings, "the weights are left out"),
            ([1.0] * len(ranks), "weights and scalings are both left out"),
            ([f**2 for f in both], "the factor is in twice, once in A and once in B"),
        )
        reject_slips(update, [(_weighted(adapters, f), sentence) for f, sentence in slips])
        if len(ranks) > 1 and len(A) <= max(ranks):
            raise Wrong(
                f"a sum of updates of ranks {ranks} needs rank {sum(ranks)}, yours has {len(A)}: "
                "adding the As and the Bs element by element brings in products of one adapter's "
                "B with the other's A"
            )
        expect_tensor(update, expected, what="your B A")


def _two_factors(result: object, d_out: int, d_in: int) -> tuple[Tensor, Tensor]:
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    if not is_pair or not all(isinstance(item, Tensor) and item.ndim == 2 for item in result):
        raise Wrong("return two matrices: (A, B)")
    A, B = result
    shapes = f"A is {tuple(A.shape)} and B is {tuple(B.shape)}"
    if len(A) == d_out and B.shape[1] == d_in:
        raise Wrong(f"{shapes}: return A, (rank, d_in), first and B, (d_out, rank), second")
    if A.shape[1] != d_in or B.shape[0] != d_out or len(A) != B.shape[1]:
        raise Wrong(
            f"{shapes}, but they must be (rank, {d_in}) and ({d_out}, rank): put the As below "
            "one another and the Bs side by side"
        )
    return A, B


def _combine(adapters: list[Adapter], weights: list[float]) -> tuple[Tensor, Tensor]:
    A = torch.cat([A for A, _, _ in adapters], dim=0)
    pairs = zip(adapters, weights, strict=True)
    return A, torch.cat([weight * scaling * B for (_, B, scaling), weight in pairs], dim=1)


def _add_factors(adapters: list[Adapter], weights: list[float]) -> tuple[Tensor, Tensor]:
    A = sum(weight * A for (A, _, _), weight in zip(adapters, weights, strict=True))
    return A, sum(scaling * B for _, B, scaling in adapters)


def _stack_below(adapters: list[Adapter], weights: list[float]) -> tuple[Tensor, Tensor]:
    return _combine(adapters, weights)[0], torch.cat([B for _, B, _ in adapters])


def _scale_both(adapters: list[Adapter], weights: list[float]) -> tuple[Tensor, Tensor]:
    pairs = list(zip(adapters, weights, strict=True))
    return torch.cat([w * s * A for (A, _, s), w in pairs]), _combine(adapters, weights)[1]


def _multiply_out(adapters: list[Adapter], weights: list[float]) -> tuple[Tensor, Tensor]:
    A, B = _combine(adapters, weights)
    return torch.eye(A.shape[1]), B @ A


COMBINE = Check(
    name="02-combine",
    verify=_verify_combine,
    solution=_combine,
    rejects=(
        (_add_factors, "element by element"),
        (
            lambda adapters, weights: _combine([(A, B, 1.0) for A, B, _ in adapters], weights),
            "scalings are left out",
        ),
        (lambda adapters, weights: _combine(adapters, [1.0] * len(weights)), "weights are left"),
        (_scale_both, "in twice"),
        (_stack_below, "side by side"),
        (lambda adapters, weights: _combine(adapters, weights)[::-1], "A, (rank, d_in), first"),
        (_multiply_out, "the ranks' sum"),
        (lambda adapters, weights: _multiply_out(adapters, weights)[1], "two matrices"),
    ),
    insight="Averaging factors is not averaging updates; side by side they add up exactly.",
)
