"""TinyLoRA: a few numbers for a whole model (Morris et al., 2026, arXiv:2602.04118).

LoRA-XS trains r^2 numbers a layer. TinyLoRA mixes its r x r matrix from fixed random ones, by u
trained numbers, and lets layers share these: down to 13 numbers for all of them, and to one.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from course_utils.memory.trained import AddedModule, BlockTraining, Trained, beside_linears
from course_utils.methods.layers import (
    Targets,
    check_targets,
    device_of,
    dtype_of,
    find_linear,
    wrap_layers,
)
from course_utils.methods.lora import LowRankLinear, check_rank
from course_utils.methods.lora_xs import singular_triplets
from course_utils.validation import check_count, check_flag, check_number, keep_plain

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture

# Where PEFT keeps the trained vectors in a file; each group of layers has a number.
VECTORS = "base_model.tinylora_v."


class TinyLoRALinear(LowRankLinear):
    """Frozen linear layer plus an update that a short vector mixes, perhaps not its own alone.

    Computes ``base(x) + x A^T R^T B^T`` with ``R = sum_i v_i P_i`` (Morris et al., 2026,
    arXiv:2602.04118). ``B A`` are the r largest parts of the weight's decomposition, the singular
    values shared out by their roots; the matrices P come from a seed. Only ``v`` trains. It starts
    at zero, so wrapping a layer does not change its output.

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
        rank: Singular values r that are kept, 1 <= r <= min(d_in, d_out).
        v: Trained vector, (u,), of this layer or of a group of layers.
        seed: Seed of the matrices.
        dropout: Probability of dropping an element of the update's input.

    Raises:
        ValueError: If ``rank`` is out of range.
    """

    def __init__(
        self, base: nn.Module, *, rank: int, v: nn.Parameter, seed: int, dropout: float = 0.0
    ) -> None:
        super().__init__(base, rank=rank, alpha=rank, dropout=dropout)
        U, S, Vh = singular_triplets(base, rank)
        root = S.sqrt()
        generator = torch.Generator().manual_seed(seed)
        # The paper leaves the distribution open; PEFT's has variance 1 / r, and is drawn like this.
        P = torch.normal(0.0, 1 / math.sqrt(rank), (len(v), rank, rank), generator=generator)
        self.register_buffer("A", (root[:, None] * Vh).contiguous(), persistent=False)
        self.register_buffer("B", (U * root).contiguous(), persistent=False)
        self.register_buffer("P", P.to(self.A), persistent=False)
        self.v = v

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A, (r, d_in), frozen, and B R, (d_out, r)."""
        return self.A, self.B @ torch.einsum("n,nij->ij", self.v, self.P)


@dataclass(frozen=True, kw_only=True)
class TinyLoRAConfig:
    """Train a few numbers, shared by as many layers as wanted.

    Args:
        rank: Singular values r that are kept of each weight; 2 in the paper.
        n_numbers: Numbers u of each trained vector.
        weight_tying: How far layers share vectors, 0..1: 0 gives each its own, 1 all the same.
        dropout: Probability of dropping an element of an update's input.
        target_modules: Names of layers, or ``"all-linear"`` for all but the head.
        seed: Seed of the first layer's matrices; each further layer takes the next.
        is_saved_whole: Whether a file holds the frozen factors and matrices beside the vectors, as
            PEFT's does. Otherwise it holds the vectors alone, ``32 u`` bits each, in this course's
            own form: the rest comes from the base again, which must be loaded in the same type.

    Raises:
        ValueError: If a value is out of range.
    """

    saved: ClassVar[dict[str, str]] = {"A": "tinylora_A", "B": "tinylora_B", "P": "tinylora_P"}

    rank: int = 2
    n_numbers: int = 13
    weight_tying: float = 1.0
    dropout: float = 0.0
    target_modules: Targets = "all-linear"
    seed: int = 42
    is_saved_whole: bool = True

    def __post_init__(self) -> None:
        keep_plain(self)
        check_count("rank", self.rank)
        check_count("n_numbers", self.n_numbers, at_most=2**16)
        check_number("weight_tying", self.weight_tying, at_least=0, at_most=1)
        check_number("dropout", self.dropout, at_least=0, below=1)
        check_targets(self.target_modules)
        check_count("seed", self.seed, at_least=0, at_most=2**63 - 1)
        check_flag("is_saved_whole", self.is_saved_whole)

    def apply_to(self, model: nn.Module) -> None:
        """Wrap the target layers of ``model``.

        Raises:
            ValueError: If a target is not found, a rank is too large, or an adapter is there.
        """
        layers = self.layers_in(model)
        groups, vectors = iter(self.groups(len(layers))), {}
        seeds = itertools.count(self.seed)

        def wrap(layer: nn.Module) -> TinyLoRALinear:
            group, seed = next(groups), next(seeds)
            if group not in vectors:
                dtype = torch.promote_types(dtype_of(layer), torch.float32)
                zeros = torch.zeros(self.n_numbers, dtype=dtype, device=device_of(layer))
                vectors[group] = nn.Parameter(zeros)
            v = vectors[group]
            return TinyLoRALinear(layer, rank=self.rank, v=v, seed=seed, dropout=self.dropout)

        wrap_layers(model, layers, wrap)

    def layers_in(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the target layers of ``model``, by full name.

        Raises:
            ValueError: If a target is not found.
        """
        return find_linear(model, self.target_modules)

    def groups(self, n_layers: int) -> list[int]:
        """Return the number of each layer's vector, (n_layers,): neighbours share, as in PEFT."""
        n_groups = max(1, round(n_layers * (1 - self.weight_tying)))
        size = max(1, n_layers // n_groups)
        return [min(i // size, n_groups - 1) for i in range(n_layers)]

    def vectors_of(self, layers: Mapping[str, TinyLoRALinear]) -> dict[str, Tensor]:
        """Return the vectors of adapted layers, in forward order, by their names in a file."""
        numbered = zip(self.groups(len(layers)), layers.values(), strict=True)
        return {f"{VECTORS}{group}": layer.v for group, layer in numbered}

    def vector_shapes(self, n_layers: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every trained vector, by its name in a file."""
        return {f"{VECTORS}{group}": (self.n_numbers,) for group in self.groups(n_layers)}

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``: a vector with the first layer of a group.

        Raises:
            ValueError: If a target is no linear layer of a block, or the rank exceeds one.
        """
        trained = beside_linears(architecture, self.target_modules, self.update_beside)
        n_layers = sum(len(block.added) for block in trained.blocks)
        groups, seen, blocks = iter(self.groups(n_layers)), set(), []
        for block in trained.blocks:
            added = []
            for module in block.added:
                group = next(groups)
                added.append(replace(module, parameters=()) if group in seen else module)
                seen.add(group)
            blocks.append(BlockTraining(added=tuple(added)))
        return replace(trained, blocks=tuple(blocks))

    def update_beside(self, d_in: int, d_out: int) -> AddedModule:
        """Return what one layer's update takes, with a vector of its own.

        The frozen factors and matrices lie in memory beside the weights, ``rank (d_in + d_out) +
        u rank^2`` elements a layer. As in LoRA-XS no input is kept; ``A x`` is, ``rank`` elements a
        token, and ``R`` and ``B R``, ``rank (rank + d_out)`` elements a layer. With dropout every
        update keeps its own mask as well, ``d_in`` a token.
        """
        check_rank(self.rank, d_in, d_out)
        return AddedModule(
            parameters=(self.n_numbers,),
            buffers=(self.rank * d_in, self.rank * d_out, self.n_numbers * self.rank**2),
            saved_per_token=self.rank + (d_in if self.dropout else 0),
            saved_once=self.rank * (self.rank + d_out),
            has_frozen_input_factor=not self.dropout,
        )

    def tensor_shapes(self, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every saved attribute of a layer, the vectors apart."""
        if not self.is_saved_whole:
            return {}
        r = self.rank
        return {"A": (r, d_in), "B": (d_out, r), "P": (self.n_numbers, r, r)}
