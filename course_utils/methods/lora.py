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
from course_utils.methods.linear import AdaptedLinear, weight_of, wrap_linear


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
        super().__init__(base)
        weight = weight_of(base)
        d_out, d_in = weight.shape
        if not 1 <= rank <= min(d_in, d_out):
            raise ValueError(f"rank={rank} must be in 1..min(d_in, d_out) (got {d_in}, {d_out})")
        # The update trains in float32 even where the base is stored in 16 bits.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.A = nn.Parameter(torch.empty(rank, d_in, dtype=dtype, device=weight.device))
        self.B = nn.Parameter(torch.zeros(d_out, rank, dtype=dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.rank, self.alpha, self.use_rslora = rank, alpha, use_rslora
        self.dropout = nn.Dropout(dropout)

    @property
    def scaling(self) -> float:
        """Factor of the update: alpha / r, or alpha / sqrt(r)."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A, (r, d_in), and B, (d_out, r), as they are used."""
        return self.A, self.B

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (..., d_in) to shape (..., d_out)."""
        if self.merged is not None:
            return self.merged(x)
        output, (A, B) = self.base(x), self.factors()
        low = nn.functional.linear(self.dropout(x.to(A.dtype)), A)
        return output + (self.scaling * nn.functional.linear(low, B)).to(output.dtype)

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
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in 0..1, and below 1")
        if isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            raise ValueError(
                f"target_modules={self.target_modules!r} must be 'all-linear' or a tuple of names"
            )

    def apply_to(self, model: nn.Module) -> None:
        """Wrap the target layers of ``model``.

        Raises:
            ValueError: If a target is not found, a rank is too large, or an adapter is there.
        """
        wrap_linear(model, self.target_modules, self.wrap)

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
            rank=self.rank, target_modules=self.target_modules, dropout=self.dropout
        )
        return footprint.footprint(architecture)
