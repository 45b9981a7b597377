"""LoRA: a low-rank update beside every frozen matrix (Hu et al., 2021, arXiv:2106.09685).

A matrix W of shape (d_out, d_in) stays as it is; what trains are A, (r, d_in), and B, (d_out, r):
r (d_in + d_out) numbers in the place of d_in d_out.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from course_utils.memory import Architecture, LoRAFootprint, Trained
from course_utils.methods.linear import (
    AdaptedLinear,
    Targets,
    check_targets,
    device_of,
    dtype_of,
    find_linear,
    shape_of,
    weight_of,
    wrap_layers,
)


class LoRALinear(AdaptedLinear):
    """Frozen linear layer plus a trainable low-rank update.

    Computes ``base(x) + scaling * x A^T B^T`` (Hu et al., 2021, arXiv:2106.09685, eq. 3), where the
    scaling is alpha / r, or alpha / sqrt(r) with ``use_rslora`` (Kalajdzievski, 2023,
    arXiv:2312.03732). ``B`` starts at zero, so wrapping a layer does not change its output.

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
        rank: Inner dimension r of the update, 1 <= r <= min(d_in, d_out).
        alpha: Strength of the update, divided by ``rank`` or its root.
        dropout: Probability of dropping an element of the update's input.
        use_rslora: Whether ``alpha`` is divided by the root of the rank.

    Raises:
        ValueError: If ``rank`` is out of range.
    """

    def __init__(
        self, base: nn.Module, *, rank: int, alpha: float, dropout: float = 0.0,
        use_rslora: bool = False,
    ) -> None:  # fmt: skip
        d_out, d_in = shape_of(base)
        check_rank(rank, d_in, d_out)
        super().__init__(base)
        # The update trains in float32 even where the base is stored in 16 bits.
        dtype, device = torch.promote_types(dtype_of(base), torch.float32), device_of(base)
        self.A = nn.Parameter(torch.empty(rank, d_in, dtype=dtype, device=device))
        self.B = nn.Parameter(torch.zeros(d_out, rank, dtype=dtype, device=device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.alpha, self.use_rslora = alpha, use_rslora
        self.dropout = nn.Dropout(dropout)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A, (r, d_in), and B, (d_out, r), as they are used."""
        return self.A, self.B

    @property
    def scaling(self) -> float:
        """Factor of the update: alpha / r, or alpha / sqrt(r)."""
        rank = len(self.factors()[0])
        return self.alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (..., d_in) to shape (..., d_out)."""
        if self.merged is not None:
            return self.merged(x)
        output, (A, B) = self.base(x), self.factors()
        # Scaled where it is narrow: r elements a token in the place of d_out.
        low = self.scaling * nn.functional.linear(self.dropout(x.to(A.dtype)), A)
        return output + nn.functional.linear(low, B).to(output.dtype)

    def adapted_weight(self) -> Tensor:
        """Return ``W + scaling * B A``, (d_out, d_in)."""
        weight, (A, B) = weight_of(self.base), self.factors()
        return weight + (self.scaling * B @ A).to(weight.dtype)


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Train a low-rank update of linear layers and nothing else.

    Args:
        rank: Inner dimension r of every update.
        alpha: Strength; the update is scaled by alpha / rank.
        dropout: Probability of dropping an element of an update's input.
        target_modules: Names of layers, or ``"all-linear"`` for all but the head.
        use_rslora: Whether to scale by alpha / sqrt(rank) (arXiv:2312.03732).

    Raises:
        ValueError: If a value is out of range.
    """

    layer: ClassVar[type[LoRALinear]] = LoRALinear
    # Attributes of a layer that are its adapter, and their names in a file: PEFT's.
    saved: ClassVar[dict[str, str]] = {"A": "lora_A.weight", "B": "lora_B.weight"}

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    target_modules: Targets = "all-linear"
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in 0..1, and below 1")
        check_alpha(self.alpha)
        check_targets(self.target_modules)

    def apply_to(self, model: nn.Module) -> None:
        """Wrap the target layers of ``model``.

        Raises:
            ValueError: If a target is not found, a rank is too large, or an adapter is there.
        """
        wrap_layers(model, self.layers_in(model), self.wrap)

    def layers_in(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the target layers of ``model``, by full name.

        Raises:
            ValueError: If a target is not found.
        """
        return find_linear(model, self.target_modules)

    def wrap(self, layer: nn.Module) -> LoRALinear:
        """Return the adapted layer of a linear layer."""
        return self.layer(
            layer, rank=self.rank, alpha=self.alpha, dropout=self.dropout,
            use_rslora=self.use_rslora,
        )  # fmt: skip

    def tensor_shapes(self, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every saved attribute of a layer."""
        return {"A": (self.rank, d_in), "B": (d_out, self.rank)}

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what trains, for ``memory.estimate``."""
        footprint = LoRAFootprint(
            rank=self.rank, target_modules=self.target_modules, dropout=self.dropout,
            train_head=architecture.n_labels is not None,
        )  # fmt: skip
        return footprint.footprint(architecture)


def check_rank(rank: int, d_in: int, d_out: int) -> None:
    """Check that an update of a layer can have a rank.

    Raises:
        ValueError: If it cannot.
    """
    if not 1 <= rank <= min(d_in, d_out):
        raise ValueError(f"rank={rank} must be in 1..min(d_in, d_out) (got {d_in}, {d_out})")


def check_alpha(alpha: float) -> None:
    """Check the strength of an update.

    Raises:
        ValueError: If it is not a positive number.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha={alpha} must be a positive number")
