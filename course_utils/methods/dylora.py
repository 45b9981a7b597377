"""DyLoRA: one training that serves every rank (Valipour et al., 2022, arXiv:2210.07558)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from course_utils.methods.layers import adapted_layers, weight_of
from course_utils.methods.lora import LoRAConfig, LoRALinear
from course_utils.validation import check_count


class DyLoRALinear(LoRALinear):
    """Low-rank update whose first b ranks are an update of their own, for every b up to r.

    Computes ``base(x) + alpha / b * x A[:b]^T B[:, :b]^T``: with ``set_rank`` it is the LoRA layer
    of that rank. In training b is drawn anew for every forward pass, so that the first ranks learn
    to do without the later ones.

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
        options: As for ``LoRALinear``; ``rank`` is the largest.
    """

    def __init__(self, base: nn.Module, **options: Any) -> None:  # noqa: ANN401
        super().__init__(base, **options)
        self.drawn_rank: int | None = None

    @property
    def rank_in_use(self) -> int:
        """The rank b: in training the one that was drawn, otherwise the one that is set."""
        return self.drawn_rank if self.training and self.drawn_rank else self.rank

    @property
    def scaling(self) -> float:
        """Factor of the update: alpha / b, or alpha / sqrt(b)."""
        return self._scaling_at(self.rank_in_use)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the first b rows of A and columns of B; b is drawn in training, or set."""
        return self.A[: self.rank_in_use], self.B[:, : self.rank_in_use]

    def adapted_weight(self) -> Tensor:
        """Return ``W + scaling * B[:, :b] A[:b]``, (d_out, d_in), at the rank that is set."""
        weight, A, B = weight_of(self.base), self.A[: self.rank], self.B[:, : self.rank]
        return weight + (self._scaling_at(self.rank) * B @ A).to(weight.dtype)

    def _scaling_at(self, rank: int) -> float:
        return self.alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True, kw_only=True)
class DyLoRAConfig(LoRAConfig):
    """Train the updates of every rank up to ``rank`` at once; the other options are LoRA's."""

    layer: ClassVar[type[LoRALinear]] = DyLoRALinear
    saved: ClassVar[dict[str, str]] = {"A": "A", "B": "B"}

    def apply_to(self, model: nn.Module) -> None:
        """Wrap the target layers, and draw one rank for all of them before every training pass.

        Raises:
            ValueError: As for ``LoRAConfig``.
        """
        super().apply_to(model)
        # On the model and not in the layers: recomputing a block must meet the rank it had.
        model.rank_hook = model.register_forward_pre_hook(_draw_rank)

    def leave(self, model: nn.Module) -> None:
        """Draw no more ranks for ``model``."""
        model.rank_hook.remove()
        del model.rank_hook


def _draw_rank(model: nn.Module, _: tuple) -> None:
    """Draw one rank for all layers, if the model trains."""
    if model.training:
        rank = int(torch.randint(1, model.fine_tuning_method.rank + 1, ()))
        for layer in _dylora_layers(model):
            layer.drawn_rank = rank


def set_rank(model: nn.Module, rank: int) -> nn.Module:
    """Make every DyLoRA layer of a model use its first ``rank`` ranks, and return the model.

    What was merged is unmerged, for it has another rank.

    Raises:
        ValueError: If the model has no such layers, or they have fewer ranks.
    """
    layers = _dylora_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no DyLoRA layers: apply DyLoRAConfig first")
    check_count("rank", rank, at_most=min(len(layer.A) for layer in layers))
    for layer in layers:
        layer.unmerge().rank = rank
    return model


def _dylora_layers(model: nn.Module) -> list[DyLoRALinear]:
    return [layer for layer in adapted_layers(model).values() if isinstance(layer, DyLoRALinear)]
