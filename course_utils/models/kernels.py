"""The pieces of a Llama block in few passes over memory, each with its own backward pass.

Between its matrix products a block does little arithmetic and moves much memory: on a processor
that is half of the time. Each function here computes what transformers' modules compute, to
rounding, and its gradient by hand: in place where nobody else looks, and without the copies that
autograd makes of what is negated, joined or transposed. float32, no second derivative.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Longer texts are left to PyTorch's blockwise attention, which never holds all of the weights.
MAX_SPELT_OUT_TOKENS = 128
# Logits that exist at once while a loss is computed at targets alone.
CHUNK_ELEMENTS = 2**22
_is_forward = False


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the type that autocast computes in where ``x`` is, or None where it is off."""
    kind = x.device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_on else None


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Compute in the types that the tensors have, on the device of ``x``."""
    kind = x.device.type
    is_known = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if is_known else nullcontext()


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Divide each token by its root mean square, and scale: (n, d) to (n, d).

    ``weight * x / sqrt(mean(x^2) + epsilon)`` (Zhang and Sennrich, 2019, arXiv:1910.07467, eq. 4).
    """
    return _RMSNorm.apply(x, weight, epsilon)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return ``silu(gate) * up`` (Shazeer, 2020, arXiv:2002.05202, eq. 6), all (n, d_ff)."""
    return _SwiGLU.apply(gate, up)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of a head's elements, i and i + D / 2, by its position's angle.

    Args:
        x: Queries or keys, (n, heads, D).
        cos: Cosines of the angles, (n, 1, D / 2), or (1, 1, D / 2) for one position.
        sin: Their sines.

    Returns:
        (n, heads, D) (Su et al., 2021, arXiv:2104.09864, eq. 34, in Llama's order of elements).
    """
    return _Rotate.apply(x, cos, sin)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """Causal attention among the tokens of each text.

    Args:
        q: Queries, (texts, heads, seq, D).
        k: Keys, (texts, kv_heads, seq, D); a head of keys serves heads / kv_heads of queries.
        v: Values, of the keys' shape.
        bias: What ``causal_bias`` returns; None for long texts.
        scaling: Factor of the scores.

    Returns:
        (texts, heads, seq, D).
    """
    if bias is not None:
        return _Attention.apply(q, k, v, bias, scaling)
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )


def causal_bias(n_tokens: int, n_groups: int, like: Tensor) -> Tensor | None:
    """Return -inf where a query must not look, (n_groups * seq, seq), or None for long texts."""
    if n_tokens > MAX_SPELT_OUT_TOKENS:
        return None
    bias = like.new_full((n_tokens, n_tokens), -torch.inf).triu_(1)
    return bias.repeat(n_groups, 1)


def low_rank_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scaling: float
) -> Tensor:
    """Return ``x W^T + bias + scaling x A^T B^T``, (..., d_in) to (..., d_out); W does not train.

    The update is added to the product as it is made, and its gradient to the gradient of ``x``.
    """
    if torch.is_grad_enabled():
        return _LowRankLinear.apply(x, weight, bias, A, B, scaling)
    rows = x.reshape(-1, x.shape[-1])
    product = torch.nn.functional.linear(rows, weight, bias)
    return product.addmm_(rows @ A.T, B.T, alpha=scaling).view(*x.shape[:-1], -1)


def spread(x: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Give each row its place among others, (n, d) to (m, d), the places of padding included.

    Args:
        x: Rows.
        rows: For each place the row that goes there, any row for padding, (m,).
        places: For each row its place, (n,). Gradients come back from there alone.
    """
    return _Spread.apply(x, rows, places)


def collect(x: Tensor, places: Tensor) -> Tensor:
    """Take rows back from their places, (m, d) to (n, d); padding gets a gradient of zeros."""
    return _Collect.apply(x, places)


@contextmanager
def _going_forward() -> Iterator[None]:
    global _is_forward
    _is_forward = True
    try:
        yield
    finally:
        _is_forward = False


def is_going_forward() -> bool:
    """Say whether a forward pass is at work, perhaps a repeated one: autograd is off inside of it.

    Otherwise, with autograd off in the middle of a backward pass, gradients are being computed.
    """
    return torch.is_grad_enabled() or _is_forward


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:  # noqa: ANN401
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        x, weight, inverse = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        unit = x * inverse
        shared = gradient * unit
        by_weight = shared.flatten(0, -2).sum(0) if needs_weight else None
        if not needs_x:
            return None, by_weight, None
        along = (shared @ weight).div_(-x.shape[-1])[..., None]
        by_x = (gradient * weight).addcmul_(unit, along).mul_(inverse)
        return by_x, by_weight, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # noqa: ANN401
        activation = torch.nn.functional.silu(gate)
        ctx.save_for_backward(gate, up, activation)
        return activation * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        gate, up, activation = ctx.saved_tensors
        by_activation = gradient * up
        by_gate = torch.ops.aten.silu_backward.grad_input(
            by_activation, gate, grad_input=by_activation
        )
        return by_gate, gradient * activation


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return _turned(gradient, *ctx.saved_tensors, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    half = x.shape[-1] // 2
    pairs = x.unflatten(-1, (2, half))
    turned = pairs * cos[..., None, :]
    turned[..., 0, :].addcmul_(pairs[..., 1, :], sin, value=-sign)
    turned[..., 1, :].addcmul_(pairs[..., 0, :], sin, value=sign)
    return turned.flatten(-2)


class _Attention(torch.autograd.Function):
    """Spelt out, head by head: queries that share a head of keys are rows of one product."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor,
        scaling: float,
    ) -> Tensor:
        n_heads, (_, _, seq, width) = k.shape[0] * k.shape[1], k.shape
        queries = q.reshape(n_heads, -1, width)
        keys, values = k.reshape(n_heads, seq, width), v.reshape(n_heads, seq, width)
        scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scaling)
        weights = torch.softmax(scores, dim=-1, out=scores)
        ctx.save_for_backward(queries, keys, values, weights)
        ctx.scaling, ctx.shapes = scaling, (q.shape, k.shape)
        return torch.bmm(weights, values).view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        queries, keys, values, weights = ctx.saved_tensors
        of_queries, of_keys = ctx.shapes
        gradient = gradient.reshape(queries.shape)
        by_values = torch.bmm(weights.transpose(1, 2), gradient)
        by_weights = torch.bmm(gradient, values.transpose(1, 2))
        by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
        by_scores.mul_(ctx.scaling)
        by_queries = torch.bmm(by_scores, keys).view(of_queries)
        by_keys = torch.bmm(by_scores.transpose(1, 2), queries).view(of_keys)
        return by_queries, by_keys, by_values.view(of_keys), None, None


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        A: Tensor,
        B: Tensor,
        scaling: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        with _going_forward():
            low = rows @ A.T
            product = torch.nn.functional.linear(rows, weight, bias)
            product.addmm_(low, B.T, alpha=scaling)
        # The input is for the gradient of A alone, which LoRA-XS has frozen.
        ctx.save_for_backward(rows if ctx.needs_input_grad[3] else None, weight, A, B, low)
        ctx.scaling = scaling
        return product.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        rows, weight, A, B, low = ctx.saved_tensors
        needs_x, _, _, needs_A, needs_B, _ = ctx.needs_input_grad
        by_rows = gradient.reshape(-1, gradient.shape[-1])
        by_low = (by_rows @ B).mul_(ctx.scaling)
        by_x = None
        if needs_x:
            by_x = (by_rows @ weight).addmm_(by_low, A).view(*gradient.shape[:-1], -1)
        by_A = by_low.T @ rows if needs_A else None
        by_B = (by_rows.T @ low).mul_(ctx.scaling) if needs_B else None
        return by_x, None, None, by_A, by_B, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, places: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(places)
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(places)
        ctx.n_places = len(x)
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (places,) = ctx.saved_tensors
        whole = gradient.new_zeros(ctx.n_places, gradient.shape[-1])
        return whole.index_copy_(0, places, gradient), None
