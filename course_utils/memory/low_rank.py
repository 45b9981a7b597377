"""Footprints of low-rank updates beside a block's linear layers.

An update is ``x A^T B^T`` with ``A`` of shape (rank, d_in) and ``B`` of shape (d_out, rank); the
methods differ in what of it trains.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

from course_utils.memory.architecture import LINEARS, Architecture
from course_utils.memory.footprint import AddedModule, BlockTraining, Trained


@dataclass(frozen=True, kw_only=True)
class LowRankFootprint(ABC):
    """An update of the same rank beside each target, in every block.

    Args:
        rank: Inner dimension of the update.
        target_modules: Names of a block's linear layers, or ``"all-linear"``.
        train_head: Whether the head is trained as well, as a new classification head must be.
    """

    rank: int = 8
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    train_head: bool = False

    def footprint(self, architecture: Architecture) -> Trained:
        """Return the updates of every block.

        Raises:
            ValueError: If a target is no linear layer of a block, or the rank is not positive.
        """
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1")
        targets = LINEARS if self.target_modules == "all-linear" else tuple(self.target_modules)
        unknown = sorted(set(targets) - set(LINEARS))
        if unknown or not targets:
            raise ValueError(
                f"target_modules={self.target_modules!r} must be 'all-linear' or some of "
                f"{', '.join(LINEARS)}"
            )
        added = tuple(self.update(architecture, linear) for linear in targets)
        return Trained(
            blocks=(BlockTraining(added=added),) * architecture.n_layers, head=self.train_head
        )

    @abstractmethod
    def update(self, architecture: Architecture, linear: str) -> AddedModule:
        """Return what the method puts beside one linear layer."""


@dataclass(frozen=True, kw_only=True)
class LoRAFootprint(LowRankFootprint):
    """Both factors are trained (Hu et al., 2021, arXiv:2106.09685).

    ``A`` needs the layer's input for its gradient, which the frozen layer alone would not; ``B``
    needs ``A x``, ``rank`` elements a token. With dropout every module keeps its own dropped copy
    of the input and the mask.

    Args:
        dropout: Probability of dropping an element of the input.
    """

    dropout: float = 0.0

    def update(self, architecture: Architecture, linear: str) -> AddedModule:
        """Return the pair ``A``, ``B`` of one linear layer."""
        d_in, d_out = architecture.linear_shape(linear)
        copies = 2 * d_in if self.dropout else 0
        return AddedModule(
            parameters=(self.rank * d_in, self.rank * d_out),
            linear=linear,
            keeps_input=not self.dropout,
            saved_per_token=self.rank + copies,
        )


@dataclass(frozen=True, kw_only=True)
class DoRAFootprint(LoRAFootprint):
    """LoRA, and the length of every row (Liu et al., 2024, arXiv:2402.09353).

    The gradient of the lengths ``m`` needs the layer's output once more, d_out elements a token;
    with dropout it needs the base's and the update's apart. The norms and ``m / norm`` are kept as
    well, d_out elements each whatever the batch, and with dropout ``m / norm - 1``.

    As a constant (section 4.3) the norm needs no more. In the graph it does: of ``n = ||V||``, row
    by row, the gradient is ``V / n``, so that the matrix ``V = W + s B A`` is kept, d_in d_out
    elements a layer, and ``n`` before it is clamped. Of ``V`` itself the sum and the scaling keep
    nothing, and ``B A`` its two factors, which are there anyway: one matrix, and not more.

    Args:
        detach_norm: Whether the norm is a constant to the backward pass.
    """

    detach_norm: bool = True

    def update(self, architecture: Architecture, linear: str) -> AddedModule:
        """Return the pair ``A``, ``B`` of one linear layer and its lengths."""
        d_in, d_out = architecture.linear_shape(linear)
        pair = super().update(architecture, linear)
        # Outputs kept, and as many factors of them: m / norm, and with dropout m / norm - 1.
        n_products = 2 if self.dropout else 1
        return replace(
            pair, parameters=(*pair.parameters, d_out),
            saved_per_token=pair.saved_per_token + n_products * d_out,
            saved_once=(1 + n_products) * d_out + (0 if self.detach_norm else (d_in + 1) * d_out),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NOLAFootprint(LowRankFootprint):
    """The factors are mixed from fixed matrices (Koohpayegani et al., 2023, arXiv:2310.02556).

    Trained are ``n_bases`` coefficients a factor, and few gradients and optimizer states follow;
    yet the matrices themselves, ``n_bases rank (d_in + d_out)`` elements a layer, lie in memory
    beside the weights. As in LoRA the input and ``A x`` are kept, for the gradients of the mixed
    ``A`` and ``B``; these are no parameters, so that they are kept too, ``rank (d_in + d_out)``
    elements a layer. The coefficients' gradients need the fixed matrices, which are there anyway.

    Args:
        n_bases: Matrices that each factor is mixed from.
    """

    n_bases: int = 64

    def update(self, architecture: Architecture, linear: str) -> AddedModule:
        """Return the coefficients and the matrices of one linear layer."""
        d_in, d_out = architecture.linear_shape(linear)
        factors = (self.rank * d_in, self.rank * d_out)
        return AddedModule(
            parameters=(self.n_bases, self.n_bases),
            buffers=tuple(self.n_bases * size for size in factors),
            linear=linear,
            keeps_input=True,
            saved_per_token=self.rank,
            saved_once=sum(factors),
        )
