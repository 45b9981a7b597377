"""DoRA: direction by LoRA, magnitude by itself (Liu et al., 2024, arXiv:2402.09353)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from course_utils.memory.trained import AddedModule
from course_utils.methods.layers import dtype_of, weight_of
from course_utils.methods.lora import LoRAConfig, LoRALinear
from course_utils.models.kernels import low_rank_linear, without_autocast
from course_utils.validation import check_flag


class DoRALinear(LoRALinear):
    """Frozen linear layer whose rows get a trained length and a direction updated by LoRA.

    The weight is ``m (W + scaling B A) / ||W + scaling B A||``, with one norm a row, that is an
    output (Liu et al., 2024, arXiv:2402.09353, eq. 5). ``m`` starts at the norms of ``W``.

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
        detach_norm: Whether the backward pass takes the norm as a constant (section 4.3). Otherwise
            the gradient is that of the equation, and the whole matrix is kept for it.
        options: As for ``LoRALinear``.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        detach_norm: bool = True,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(base, **options)
        self.detach_norm = detach_norm
        self.magnitude = nn.Parameter(self._row_norms().detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (..., d_in) to shape (..., d_out)."""
        if (plain := self.in_its_place()) is not None:
            return plain(x)
        (A, B), bias = self.factors(), self.base.bias
        scale = self.magnitude / self._row_norms()
        if self.is_fusible(x, A):
            y = scale * low_rank_linear(x, self.base.weight, None, A, B, self.scaling)
            return y if bias is None else y + bias
        plain = self.base(x) if bias is None else self.base(x) - bias
        dropped = self.dropout(x.to(A.dtype))
        update = nn.functional.linear(self.scaling * nn.functional.linear(dropped, A), B)
        if self.training and self.dropout.p:
            # Dropout belongs to the change, of length and of direction: the base keeps its input.
            base = self.base(dropped.to(x.dtype))
            base = base if bias is None else base - bias
            y = plain + (scale - 1) * base + scale * update
        else:
            y = scale * (plain + update)
        y = y if bias is None else y + bias
        return y.to(plain.dtype)

    def plain_and_update(self) -> tuple[nn.Module, None]:
        """Return this layer, whose update is more than one of low rank."""
        return self.in_its_place() or self, None

    def adapted_weight(self) -> Tensor:
        """Return ``m (W + scaling B A) / ||W + scaling B A||``, (d_out, d_in)."""
        scale = (self.magnitude / self._row_norms())[:, None]
        return (scale * super().adapted_weight()).to(dtype_of(self.base))

    def _row_norms(self) -> Tensor:
        """Return the norm of every row of ``W + scaling B A``, (d_out,)."""
        weight = weight_of(self.base).detach().to(self.A.dtype)
        if self.detach_norm or not torch.is_grad_enabled():
            norms = _norms_of_sum(weight, self.A.detach(), self.scaling * self.B.detach())
        else:
            norms = (weight + self.scaling * (self.B @ self.A)).norm(dim=1)
        # A row of small weights may be all zeros once it is stored in four bits.
        return norms.clamp(min=torch.finfo(norms.dtype).tiny)


def _norms_of_sum(weight: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Return the norm of every row of ``W + B A``, (d_out,), without the sum.

    ``||w + b A||^2 = ||w||^2 + 2 (A w) b + b (A A^T) b``, for each row w of W and b of B.
    """
    with without_autocast(weight):  # A difference of squares loses digits.
        mixed = (2 * weight @ A.T).addmm_(B, A @ A.T)
        squares = weight.square().sum(dim=1) + (mixed * B).sum(dim=1)
    return squares.clamp(min=0).sqrt()


@dataclass(frozen=True, kw_only=True)
class DoRAConfig(LoRAConfig):
    """Train magnitude and direction of linear layers.

    Args:
        detach_norm: Whether the backward pass takes the norms as constants. It concerns training
            alone: PEFT's files do not say, and a loaded adapter has the default.
        options: The others are LoRA's.
    """

    saved: ClassVar[dict[str, str]] = LoRAConfig.saved | {"magnitude": "lora_magnitude_vector"}

    detach_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("detach_norm", self.detach_norm)

    def wrap(self, layer: nn.Module) -> DoRALinear:
        """Return the adapted layer of a linear layer."""
        return DoRALinear(
            layer,
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            use_rslora=self.use_rslora,
            detach_norm=self.detach_norm,
        )

    def update_beside(self, d_in: int, d_out: int) -> AddedModule:
        """Return what one layer's update takes.

        The gradient of the lengths ``m`` needs the layer's output once more, d_out elements a
        token; with dropout it needs the base's and the update's apart. The norms and ``m / norm``
        are kept as well, d_out elements each whatever the batch, and with dropout ``m / norm - 1``.

        As a constant (section 4.3) the norm needs no more. In the graph it does: of ``n = ||V||``,
        row by row, the gradient is ``V / n``, so that the matrix ``V = W + s B A`` is kept, d_in
        d_out elements a layer, and ``n`` before it is clamped. Of ``V`` itself the sum and the
        scaling keep nothing, and ``B A`` its two factors, which are there anyway: one matrix, and
        not more.
        """
        pair = super().update_beside(d_in, d_out)
        # Outputs kept, and as many factors of them: m / norm, and with dropout m / norm - 1.
        n_products = 2 if self.dropout else 1
        return replace(
            pair,
            parameters=(*pair.parameters, d_out),
            saved_per_token=pair.saved_per_token + n_products * d_out,
            saved_once=(1 + n_products) * d_out + (0 if self.detach_norm else (d_in + 1) * d_out),
        )

    def tensor_shapes(self, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every saved attribute of a layer."""
        return super().tensor_shapes(d_in, d_out) | {"magnitude": (d_out,)}


def magnitude_and_direction(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each row's length changed, and how far its direction.

    ``| ||w'|| - ||w|| |`` and ``1 - cos(w, w')``; their means over the rows are the paper's
    Delta M and Delta D (Liu et al., 2024, arXiv:2402.09353, section 3.2, eq. 3 and 4).

    Args:
        before: Weight W, (d_out, d_in), or one row, (d_in,).
        after: The weight after training, of the same shape.

    Returns:
        Change of length and of direction of every row, (d_out,) each, in float32 at least. The
        latter is in 0..2, and nan for a row of zeros, which has no direction.

    Raises:
        ValueError: If the shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f"before {tuple(before.shape)} and after {tuple(after.shape)} must match")
    before, after = (
        weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        for weight in (before, after)
    )
    lengths = before.norm(dim=-1, keepdim=True), after.norm(dim=-1, keepdim=True)
    magnitude = (lengths[1] - lengths[0]).abs().squeeze(-1)
    # 1 - cos of two unit rows is half their squared distance, which small angles do not round away.
    direction = (after / lengths[1] - before / lengths[0]).square().sum(dim=-1) / 2
    return magnitude, direction
