"""Full fine-tuning, and fine-tuning with most of the model frozen.

Freezing all but the last layers is the oldest way to save (Howard and Ruder, 2018,
arXiv:1801.06146, unfreeze from the top); training the normalisation alone goes back to
arXiv:2003.00152 (Frankle et al., 2020).
"""

from dataclasses import dataclass

from torch import nn

from course_utils.memory import Architecture, FrozenFootprint, FullFootprint, Trained


@dataclass(frozen=True, kw_only=True)
class FullFineTuning:
    """Train every parameter."""

    def apply_to(self, model: nn.Module) -> None:
        """Make every parameter of ``model`` require a gradient."""
        model.requires_grad_(True)

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what trains, for ``memory.estimate``."""
        return FullFootprint().footprint(architecture)


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
        if self.last_n_layers < 0:
            raise ValueError(f"last_n_layers={self.last_n_layers} must be at least 0")
        if not (self.last_n_layers or self.train_norms or self.train_head):
            raise ValueError("nothing to train: set last_n_layers, train_norms or train_head")

    def apply_to(self, model: nn.Module) -> None:
        """Freeze ``model`` and open what the configuration names.

        Raises:
            ValueError: If the model has fewer blocks than ``last_n_layers``.
        """
        blocks = transformer_blocks(model)
        if self.last_n_layers > len(blocks):
            raise ValueError(f"last_n_layers={self.last_n_layers} must be at most {len(blocks)}")
        model.requires_grad_(False)
        for block in blocks[len(blocks) - self.last_n_layers :]:
            block.requires_grad_(True)
        norms = norm_layers(model)
        for norm in norms if self.train_norms else norms[-1:] if self.last_n_layers else []:
            norm.requires_grad_(True)
        if self.train_head:
            output_head(model).requires_grad_(True)

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what trains, for ``memory.estimate``."""
        frozen = FrozenFootprint(
            last_n_layers=self.last_n_layers, train_norms=self.train_norms,
            train_head=self.train_head,
        )  # fmt: skip
        return frozen.footprint(architecture)


def transformer_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the model's blocks, first to last.

    Raises:
        ValueError: If the model has no list of blocks.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of transformer blocks")
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Return every normalisation layer in forward order, the final one last."""
    return [module for module in model.modules() if "norm" in type(module).__name__.lower()]


def output_head(model: nn.Module) -> nn.Module:
    """Return the head, untied from the input embedding if the two share their weight.

    Raises:
        ValueError: If the model has neither a classification head nor an output layer.
    """
    for name in ("score", "classifier"):
        if isinstance(getattr(model, name, None), nn.Module):
            return getattr(model, name)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise ValueError(f"{type(model).__name__} has no head to train")
    embedding = model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return head
