"""LoRA: a low-rank update beside every frozen matrix (Hu et al., 2021, arXiv:2106.09685).

A matrix W of shape (d_out, d_in) stays as it is; what trains are A, (r, d_in), and B, (d_out, r):
r (d_in + d_out) numbers in the place of d_in d_out.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from course_utils.memory.trained import AddedModule, Trained, beside_linears
from course_utils.methods.layers import (
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
from course_utils.models.kernels import autocast_dtype, low_rank_linear
from course_utils.validation import check_count, check_flag, check_number, keep_plain

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture


class LowRankLinear(AdaptedLinear, ABC):
    """Frozen linear layer plus an update of low rank, whatever its two factors are made of.

    Computes ``base(x) + scaling * x A^T B^T`` (Hu et al., 2021, arXiv:2106.09685, eq. 3), where the
    scaling is alpha / r, or alpha / sqrt(r) with ``use_rslora`` (Kalajdzievski, 2023,
    arXiv:2312.03732).

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
        rank: Inner dimension r of the update, 1 <= r <= min(d_in, d_out).
        alpha: Strength of the update, divided by ``rank`` or its root.
        dropout: Probability of dropping an element of the update's input.
        use_rslora: Whether ``alpha`` is divided by the root of the rank.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        use_rslora: bool = False,
    ) -> None:
        check_rank(rank, *reversed(shape_of(base)))
        super().__init__(base)
        self.rank, self.alpha, self.use_rslora = rank, alpha, use_rslora
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A, (r, d_in), and B, (d_out, r), as they are used."""

    @property
    def scaling(self) -> float:
        """Factor of the update: alpha / r, or alpha / sqrt(r)."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (..., d_in) to shape (..., d_out)."""
        if (plain := self.in_its_place()) is not None:
            return plain(x)
        A, B = self.factors()
        if self.is_fusible(x, A):
            return low_rank_linear(x, self.base.weight, self.base.bias, A, B, self.scaling)
        output = self.base(x)
        # Scaled where it is narrow: r elements a token in the place of d_out.
        low = self.scaling * nn.functional.linear(self.dropout(x.to(A.dtype)), A)
        return output + nn.functional.linear(low, B).to(output.dtype)

    def is_fusible(self, x: Tensor, A: Tensor) -> bool:
        """Say whether base and update can be one product: plain, of one type, nothing dropped."""
        base = self.base
        is_plain = type(base) is nn.Linear and not (base._forward_hooks or base._forward_pre_hooks)
        return (
            is_plain
            and x.dtype == A.dtype == base.weight.dtype
            and not (base.weight.requires_grad or (self.training and self.dropout.p))
            and autocast_dtype(x) is None
        )

    def plain_and_update(self) -> tuple[nn.Module, tuple[Tensor, Tensor, float] | None]:
        """Return the base and its update, or the layer that computes in their place."""
        plain = self.in_its_place()
        return (self.base, (*self.factors(), self.scaling)) if plain is None else (plain, None)

    def adapted_weight(self) -> Tensor:
        """Return ``W + scaling * B A``, (d_out, d_in)."""
        weight, (A, B) = weight_of(self.base), self.factors()
        return weight + (self.scaling * B @ A).to(weight.dtype)


class LoRALinear(LowRankLinear):
    """Frozen linear layer plus a trainable low-rank update: A and B are what trains.

    ``B`` starts at zero, so wrapping a layer does not change its output.

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
        rank: Inner dimension r of the update, 1 <= r <= min(d_in, d_out).
        options: As for ``LowRankLinear``.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(self, base: nn.Module, *, rank: int, **options: Any) -> None:  # noqa: ANN401
        super().__init__(base, rank=rank, **options)
        d_out, d_in = shape_of(base)
        # The update trains in float32 even where the base is stored in 16 bits.
        dtype, device = torch.promote_types(dtype_of(base), torch.float32), device_of(base)
        self.A = nn.Parameter(torch.empty(rank, d_in, dtype=dtype, device=device))
        self.B = nn.Parameter(torch.zeros(d_out, rank, dtype=dtype, device=device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A, (r, d_in), and B, (d_out, r)."""
        return self.A, self.B


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
        keep_plain(self)
        check_count("rank", self.rank)
        check_number("alpha", self.alpha, above=0)
        check_number("dropout", self.dropout, at_least=0, below=1)
        check_targets(self.target_modules)
        check_flag("use_rslora", self.use_rslora)

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
            layer,
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            use_rslora=self.use_rslora,
        )

    def tensor_shapes(self, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every saved attribute of a layer."""
        return {"A": (self.rank, d_in), "B": (d_out, self.rank)}

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``: an update beside each target.

        Raises:
            ValueError: If a target is no linear layer of a block, or the rank exceeds one.
        """
        return beside_linears(architecture, self.target_modules, self.update_beside)

    def update_beside(self, d_in: int, d_out: int) -> AddedModule:
        """Return what one layer's update takes.

        ``A`` needs the layer's input for its gradient, which the frozen layer alone would not;
        ``B`` needs ``A x``, ``rank`` elements a token. With dropout every update keeps its own
        dropped copy of the input and the mask.
        """
        check_rank(self.rank, d_in, d_out)
        copies = 2 * d_in if self.dropout else 0
        return AddedModule(
            parameters=(self.rank * d_in, self.rank * d_out),
            keeps_input=not self.dropout,
            saved_per_token=self.rank + copies,
        )


def check_rank(rank: int, d_in: int, d_out: int) -> None:
    """Check that an update of a layer can have a rank.

    Raises:
        ValueError: If it cannot.
    """
    check_count("rank", rank)
    if rank > min(d_in, d_out):
        raise ValueError(f"rank={rank} must be in 1..min(d_in, d_out) (got {d_in}, {d_out})")
