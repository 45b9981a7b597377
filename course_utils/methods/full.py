"""Full fine-tuning, and fine-tuning with most of the model frozen.

Freezing all but the last layers is the oldest way to save (Howard and Ruder, 2018,
arXiv:1801.06146, unfreeze from the top); training the normalisation alone goes back to
arXiv:2003.00152 (Frankle et al., 2020).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from course_utils.memory.trained import BlockTraining, Trained
from course_utils.models.structure import (
    final_norms,
    norm_layers,
    output_heads,
    packed_by,
    transformer_blocks,
)
from course_utils.validation import check_count, check_flag, keep_plain

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class FullFineTuning:
    """Train every parameter."""

    def apply_to(self, model: nn.Module) -> None:
        """Make every parameter of ``model`` require a gradient.

        Raises:
            ValueError: If weights of the model are stored in few bits.
        """
        _check_full_weights(model)
        model.requires_grad_(True)

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``."""
        block = BlockTraining(base=frozenset(architecture.block_parameters()))
        return Trained(
            blocks=(block,) * architecture.n_layers, embedding=True, final_norm=True, head=True
        )


@dataclass(frozen=True, kw_only=True)
class FrozenFineTuning:
    """Train the top of the model and freeze the rest.

    Args:
        last_n_layers: Blocks that train, counted from the output, with the final norm; 0 for none.
        train_norms: Whether every normalisation layer trains.
        train_head: Whether the head trains: a classifier's score layer, or a language model's
            output layer, which is untied from the input embedding so that the latter stays frozen.

    Raises:
        ValueError: If nothing is left to train, or ``last_n_layers`` is negative.
    """

    last_n_layers: int = 0
    train_norms: bool = False
    train_head: bool = True

    def __post_init__(self) -> None:
        keep_plain(self)
        check_count("last_n_layers", self.last_n_layers, at_least=0)
        check_flag("train_norms", self.train_norms)
        check_flag("train_head", self.train_head)
        if not (self.last_n_layers or self.train_norms or self.train_head):
            raise ValueError("nothing to train: set last_n_layers, train_norms or train_head")

    def apply_to(self, model: nn.Module) -> None:
        """Freeze ``model`` and open what the configuration names.

        Raises:
            ValueError: If the model has fewer blocks than ``last_n_layers``, or blocks that should
                train are stored in few bits.
        """
        blocks = transformer_blocks(model)
        if self.last_n_layers > len(blocks):
            raise ValueError(f"last_n_layers={self.last_n_layers} must be at most {len(blocks)}")
        opened = list(blocks[len(blocks) - self.last_n_layers :])
        if opened:
            _check_full_weights(model)
            opened += final_norms(model)
        if self.train_norms:
            opened += norm_layers(model)
        if self.train_head:
            opened += output_heads(model)
        model.requires_grad_(False)
        for module in opened:
            module.requires_grad_(True)

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``.

        A head that is the embedding matrix is untied first: trained as it is, it would take
        gradients down to the embedding, and no block's activations could be dropped.

        Raises:
            ValueError: If ``last_n_layers`` is not a number of the model's blocks.
        """
        n_layers = architecture.n_layers
        check_count("last_n_layers", self.last_n_layers, at_least=0, at_most=n_layers)
        names = architecture.block_parameters()
        norms = frozenset(name for name in names if "norm" in name) if self.train_norms else ()
        lower = BlockTraining(base=frozenset(norms))
        upper = BlockTraining(base=frozenset(names))
        return Trained(
            blocks=(lower,) * (n_layers - self.last_n_layers) + (upper,) * self.last_n_layers,
            final_norm=self.train_norms or self.last_n_layers > 0,
            head=self.train_head,
            unties_head=self.train_head,
        )


def _check_full_weights(model: nn.Module) -> None:
    """Check that a model's matrices can train.

    Raises:
        ValueError: If some are stored in few bits.
    """
    if packed := packed_by(model):
        raise ValueError(
            f"{packed} keeps its weight in few bits, which no gradient can change, so that little "
            "but norms would train: apply LoRAConfig, or load the model in full precision"
        )
