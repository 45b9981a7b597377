"""DoRA: direction by LoRA, magnitude by itself (Liu et al., 2024, arXiv:2402.09353)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from course_utils.memory import Architecture, DoRAFootprint, Trained
from course_utils.methods.linear import dtype_of, weight_of
from course_utils.methods.lora import LoRAConfig, LoRALinear


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
        if self.merged is not None:
            return self.merged(x)
        (A, B), bias = self.factors(), self.base.bias
        scale = self.magnitude / self._row_norms()
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

    def adapted_weight(self) -> Tensor:
        """Return ``m (W + scaling B A) / ||W + scaling B A||``, (d_out, d_in)."""
        scale = (self.magnitude / self._row_norms())[:, None]
        return (scale * super().adapted_weight()).to(dtype_of(self.base))

    def _row_norms(self) -> Tensor:
        """Return the norm of every row of ``W + scaling B A``, (d_out,)."""
        weight = weight_of(self.base).detach().to(self.A.dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_norm):
            norms = (weight + self.scaling * (self.B @ self.A)).norm(dim=1)
        # A row of small weights may be all zeros once it is stored in four bits.
        return norms.clamp(min=torch.finfo(norms.dtype).tiny)


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

    def wrap(self, layer: nn.Module) -> DoRALinear:
        """Return the adapted layer of a linear layer."""
        return DoRALinear(
            layer, rank=self.rank, alpha=self.alpha, dropout=self.dropout,
            use_rslora=self.use_rslora, detach_norm=self.detach_norm,
        )  # fmt: skip

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what trains, for ``memory.estimate``."""
        footprint = DoRAFootprint(
            rank=self.rank, target_modules=self.target_modules, dropout=self.dropout,
            train_head=architecture.n_labels is not None, detach_norm=self.detach_norm,
        )  # fmt: skip
        return footprint.footprint(architecture)

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
