"""LoRA-XS: an r x r matrix between frozen singular vectors (Bałazy et al., 2024, arXiv:2405.17604).

LoRA of rank 1 still trains d_in + d_out numbers a layer. LoRA-XS takes both factors from the weight
itself, its r largest singular values with their vectors, and freezes them; what trains is how they
are mixed: r^2 numbers, however wide the layer is.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from course_utils.memory.trained import AddedModule, Trained, beside_linears
from course_utils.methods.layers import (
    Targets,
    check_targets,
    dtype_of,
    find_linear,
    shape_of,
    weight_of,
    wrap_layers,
)
from course_utils.methods.lora import LowRankLinear, check_rank
from course_utils.validation import check_count, check_number, keep_plain

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture


@torch.no_grad()
def singular_triplets(layer: nn.Module, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest singular values of a layer's weight, and their vectors.

    Vectors are unique up to the sign of a pair, which is chosen so that the largest element of the
    right one is positive: else a trained matrix would mean another update where another library
    has decomposed the weight.

    Args:
        layer: Linear layer, d_in to d_out; one in four bits is restored.
        rank: How many, r.

    Returns:
        U, (d_out, r), S, (r,), and V^T, (r, d_in), in float32 at least.

    Raises:
        ValueError: If ``rank`` is out of range.
    """
    check_rank(rank, *reversed(shape_of(layer)))
    weight = weight_of(layer).to(torch.promote_types(dtype_of(layer), torch.float32))
    U, S, Vh = (part.clone() for part in torch.linalg.svd(weight, full_matrices=False))
    U, S, Vh = U[:, :rank], S[:rank], Vh[:rank]
    signs = Vh.gather(1, Vh.abs().argmax(dim=1, keepdim=True)).sign()
    return U * signs.T, S, Vh * signs


class LoRAXSLinear(LowRankLinear):
    """Frozen linear layer plus an update between its own largest singular vectors.

    Computes ``base(x) + alpha / r * x V R^T (U S)^T``, where ``U S V^T`` are the r largest parts of
    the weight's decomposition (Bałazy et al., 2024, arXiv:2405.17604, section 3). Only ``R``,
    (r, r), trains. It starts at zero, so wrapping a layer does not change its output; the paper
    draws it with a standard deviation of 1e-5, which is next to that.

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
        rank: Singular values r that are kept, 1 <= r <= min(d_in, d_out).
        alpha: Strength of the update, divided by ``rank``.

    Raises:
        ValueError: If ``rank`` is out of range.
    """

    def __init__(self, base: nn.Module, *, rank: int, alpha: float) -> None:
        super().__init__(base, rank=rank, alpha=alpha)
        U, S, Vh = singular_triplets(base, rank)
        self.register_buffer("A", Vh.contiguous(), persistent=False)
        self.register_buffer("B", (U * S).contiguous(), persistent=False)
        self.R = nn.Parameter(self.A.new_zeros(rank, rank))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return V^T, (r, d_in), frozen, and U S R, (d_out, r)."""
        return self.A, self.B @ self.R


@dataclass(frozen=True, kw_only=True)
class LoRAXSConfig:
    """Train an r x r matrix beside each layer, between its frozen singular vectors.

    A file holds the matrices alone, ``32 r^2`` bits a layer: the vectors come from the base again,
    which must be loaded in the type that it was trained in.

    Args:
        rank: Singular values that are kept: rank^2 numbers a layer are trained.
        alpha: Strength; the update is scaled by alpha / rank.
        target_modules: Names of layers, or ``"all-linear"`` for all but the head.

    Raises:
        ValueError: If a value is out of range.
    """

    saved: ClassVar[dict[str, str]] = {"R": "R"}

    rank: int = 4
    alpha: float = 16
    target_modules: Targets = "all-linear"

    def __post_init__(self) -> None:
        keep_plain(self)
        check_count("rank", self.rank)
        check_number("alpha", self.alpha, above=0)
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

    def wrap(self, layer: nn.Module) -> LoRAXSLinear:
        """Return the adapted layer of a linear layer."""
        return LoRAXSLinear(layer, rank=self.rank, alpha=self.alpha)

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``: a matrix beside each target.

        Raises:
            ValueError: If a target is no linear layer of a block, or the rank exceeds one.
        """
        return beside_linears(architecture, self.target_modules, self.update_beside)

    def update_beside(self, d_in: int, d_out: int) -> AddedModule:
        """Return what one layer's update takes.

        The frozen vectors lie in memory beside the weights, ``rank (d_in + d_out)`` elements a
        layer. Unlike LoRA's, ``A`` needs no gradient, and so no input is kept for one: ``A x``,
        ``rank`` elements a token, is all that the gradient of ``R`` needs, and ``U S R`` itself,
        ``rank d_out`` elements a layer, what the gradient of ``A x`` does.
        """
        check_rank(self.rank, d_in, d_out)
        return AddedModule(
            parameters=(self.rank**2,),
            buffers=(self.rank * d_in, self.rank * d_out),
            saved_per_token=self.rank,
            saved_once=self.rank * d_out,
            has_frozen_input_factor=True,
        )

    def tensor_shapes(self, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every saved attribute of a layer, which does not depend on it."""
        return {"R": (self.rank, self.rank)}
