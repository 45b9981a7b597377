"""NOLA: an update mixed from random matrices (Koohpayegani et al., 2023, arXiv:2310.02556).

LoRA of rank 1 still trains d_in + d_out numbers a layer. NOLA trains as many as it likes: its A and
B are mixtures of fixed random matrices, and only the coefficients are trained, and stored.
"""

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from course_utils.memory.trained import AddedModule, Trained, beside_linears
from course_utils.methods.layers import (
    Targets,
    check_targets,
    device_of,
    find_linear,
    shape_of,
    wrap_layers,
)
from course_utils.methods.lora import LowRankLinear, check_rank
from course_utils.validation import check_count, check_number, keep_plain

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture


class NOLALinear(LowRankLinear):
    """Frozen linear layer plus a low-rank update made of random bases.

    Computes ``base(x) + alpha / r * x A^T B^T``, where ``A = sum_i a_i A_i`` and
    ``B = sum_j b_j B_j``. The bases come from a seed and are not stored; ``b``
    starts at zero, so wrapping a layer does not change its output.

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
        rank: Inner dimension r of the update, 1 <= r <= min(d_in, d_out).
        alpha: Strength of the update, divided by ``rank``.
        n_bases: Matrices that A is mixed from, and as many for B.
        seed: Seed of the matrices.

    Raises:
        ValueError: If ``rank`` is out of range.
    """

    def __init__(
        self, base: nn.Module, *, rank: int, alpha: float, n_bases: int, seed: int
    ) -> None:
        super().__init__(base, rank=rank, alpha=alpha)
        (d_out, d_in), device = shape_of(base), device_of(base)
        generator = torch.Generator().manual_seed(seed)

        def bases(rows: int, columns: int) -> Tensor:
            # With normal coefficients the mixture then has the variance of LoRA's A.
            width = math.sqrt(1 / (3 * columns * n_bases))
            return (width * torch.randn(n_bases, rows, columns, generator=generator)).to(device)

        self.register_buffer("A_bases", bases(rank, d_in), persistent=False)
        self.register_buffer("B_bases", bases(d_out, rank), persistent=False)
        self.a = nn.Parameter(torch.randn(n_bases, generator=generator).to(device))
        self.b = nn.Parameter(torch.zeros(n_bases, device=device))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the mixed A, (r, d_in), and B, (d_out, r)."""
        A = torch.einsum("n,nrd->rd", self.a, self.A_bases)
        return A, torch.einsum("n,ndr->dr", self.b, self.B_bases)


@dataclass(frozen=True, kw_only=True)
class NOLAConfig:
    """Train the coefficients of random low-rank updates.

    Args:
        rank: Inner dimension r of every update.
        alpha: Strength; the update is scaled by alpha / rank.
        n_bases: Coefficients of A, and as many of B: 2 n_bases numbers a layer are trained.
        target_modules: Names of layers, or ``"all-linear"`` for all but the head.
        seed: Seed of the first layer's bases; each further layer takes the next.

    Raises:
        ValueError: If a value is out of range.
    """

    saved: ClassVar[dict[str, str]] = {"a": "a", "b": "b"}

    rank: int = 8
    alpha: float = 16
    n_bases: int = 64
    target_modules: Targets = "all-linear"
    seed: int = 0

    def __post_init__(self) -> None:
        keep_plain(self)
        check_count("rank", self.rank)
        check_count("n_bases", self.n_bases, at_most=2**16)
        check_number("alpha", self.alpha, above=0)
        check_targets(self.target_modules)
        check_count("seed", self.seed, at_least=0, at_most=2**63 - 1)

    def apply_to(self, model: nn.Module) -> None:
        """Wrap the target layers of ``model``.

        Raises:
            ValueError: If a target is not found, a rank is too large, or an adapter is there.
        """
        seeds = itertools.count(self.seed)

        def wrap(layer: nn.Module) -> NOLALinear:
            return NOLALinear(
                layer, rank=self.rank, alpha=self.alpha, n_bases=self.n_bases, seed=next(seeds)
            )

        wrap_layers(model, self.layers_in(model), wrap)

    def layers_in(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the target layers of ``model``, by full name.

        Raises:
            ValueError: If a target is not found.
        """
        return find_linear(model, self.target_modules)

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``: coefficients beside each target.

        Raises:
            ValueError: If a target is no linear layer of a block, or the rank exceeds one.
        """
        return beside_linears(architecture, self.target_modules, self.update_beside)

    def update_beside(self, d_in: int, d_out: int) -> AddedModule:
        """Return what one layer's update takes.

        Few gradients and optimizer states follow from ``n_bases`` coefficients a factor; yet the
        matrices themselves, ``n_bases rank (d_in + d_out)`` elements a layer, lie in memory beside
        the weights. As in LoRA the input and ``A x`` are kept, for the gradients of the mixed ``A``
        and ``B``; these are no parameters, so that they are kept too, ``rank (d_in + d_out)``
        elements a layer. The coefficients' gradients need the fixed matrices, which are there
        anyway.
        """
        check_rank(self.rank, d_in, d_out)
        factors = (self.rank * d_in, self.rank * d_out)
        return AddedModule(
            parameters=(self.n_bases, self.n_bases),
            buffers=tuple(self.n_bases * size for size in factors),
            keeps_input=True,
            saved_per_token=self.rank,
            saved_once=sum(factors),
        )

    def tensor_shapes(self, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every saved attribute of a layer, which does not depend on it."""
        return {"a": (self.n_bases,), "b": (self.n_bases,)}
