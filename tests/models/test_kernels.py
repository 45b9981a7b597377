"""Each kernel is the formula of its docstring, and its gradient is autograd's of that formula."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from course_utils.models import kernels


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return weight * x / (x.square().mean(dim=-1, keepdim=True) + epsilon).sqrt()


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return gate * torch.sigmoid(gate) * up


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scaling: float) -> Tensor:
    n_shared = q.shape[1] // k.shape[1]
    k, v = (part.repeat_interleave(n_shared, dim=1) for part in (k, v))
    scores = scaling * q @ k.mT + bias[: q.shape[2]]
    return scores.softmax(dim=-1) @ v


def low_rank(
    x: Tensor, weight: Tensor, bias: Tensor, A: Tensor, B: Tensor, scaling: float
) -> Tensor:
    return x @ weight.T + bias + scaling * x @ A.T @ B.T


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def case(name: str) -> tuple[Callable, Callable, list, int]:
    """Return kernel, formula, arguments, and how many of these take a gradient."""
    angle = torch.rand(7, 1, 4, dtype=torch.float64)
    bias = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1)
    frozen = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    return {
        "norm": (kernels.rms_norm, norm, [numbers(7, 8), numbers(8), 1e-3], 2),
        "swiglu": (kernels.swiglu, swiglu, [numbers(7, 8), numbers(7, 8)], 2),
        "rotate": (kernels.rotate, rotate, [numbers(7, 2, 8), angle.cos(), angle.sin()], 1),
        "attend": (
            kernels.attend,
            attend,
            [numbers(2, 4, 5, 3), numbers(2, 2, 5, 3), numbers(2, 2, 5, 3), bias.repeat(2, 1), 0.3],
            3,
        ),
        "low rank": (
            lambda x, A, B: kernels.low_rank_linear(x, *frozen, A, B, 0.7),
            lambda x, A, B: low_rank(x, *frozen, A, B, 0.7),
            [numbers(2, 5, 8), numbers(2, 8), numbers(6, 2)],
            3,
        ),
    }[name]


@pytest.mark.parametrize("name", ["norm", "swiglu", "rotate", "attend", "low rank"])
def test_value_and_gradient(name: str):
    kernel, formula, arguments, n_learnt = case(name)
    found, expected = kernel(*arguments), formula(*arguments)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    ours, theirs = (
        torch.autograd.grad((output * weights).sum(), arguments[:n_learnt])
        for output in (found, expected)
    )
    torch.testing.assert_close(ours, theirs)


def test_no_gradient_is_made_that_nobody_wants():
    x, weight = numbers(7, 8), torch.ones(8, dtype=torch.float64)
    (by_x,) = torch.autograd.grad(kernels.rms_norm(x, weight, 1e-3).sum(), [x])
    (expected,) = torch.autograd.grad(norm(x, weight, 1e-3).sum(), [x])
    torch.testing.assert_close(by_x, expected)
    x, A, B = torch.randn(5, 8), torch.randn(2, 8, requires_grad=True), torch.randn(6, 2)
    y = kernels.low_rank_linear(x, torch.randn(6, 8), None, A, B, 1.0)
    (by_A,) = torch.autograd.grad(y.sum(), [A])
    torch.testing.assert_close(by_A, (torch.ones(5, 6) @ B).T @ x)


def test_padding_gets_no_gradient_and_gives_none():
    x = torch.arange(6.0).view(3, 2).requires_grad_()
    rows, places = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 2])
    grid = kernels.spread(x, rows, places)
    assert torch.equal(grid[3], x[0]), "any row stands in for padding"
    back = kernels.collect(grid, places)
    assert torch.equal(back, x)
    (gradient,) = torch.autograd.grad(back.sum() + grid[3].sum(), [x])
    assert torch.equal(gradient, torch.ones(3, 2))


def test_long_texts_are_left_to_pytorch():
    assert kernels.causal_bias(kernels.MAX_SPELT_OUT_TOKENS + 1, 1, torch.zeros(1)) is None
    q, k, v = torch.randn(1, 4, 9, 3), torch.randn(1, 2, 9, 3), torch.randn(1, 2, 9, 3)
    bias = kernels.causal_bias(9, 2, q)
    torch.testing.assert_close(
        kernels.attend(q, k, v, bias, 0.5), kernels.attend(q, k, v, None, 0.5)
    )
