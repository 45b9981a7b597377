"""What a fine-tuning method trains, in the terms that its memory follows from.

A method's configuration says so itself, through ``footprint(architecture)``; :func:`estimate` asks
for nothing else, so a new method needs no change here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from course_utils.memory.architecture import LINEARS, Architecture


@dataclass(frozen=True, kw_only=True)
class AddedModule:
    """A small trained module beside one of a block's linear layers, or elsewhere in the block.

    Args:
        parameters: Elements of each tensor that it adds.
        linear: The linear layer whose input it reads, or None.
        keeps_input: Whether its backward needs that input as it is. Modules that read the same
            tensor share one copy of it.
        saved_per_token: Further elements that its backward needs, a token.
    """

    parameters: tuple[int, ...]
    linear: str | None = None
    keeps_input: bool = False
    saved_per_token: int = 0


@dataclass(frozen=True, kw_only=True)
class BlockTraining:
    """What is trained in one block.

    Args:
        base: Names of the block's own parameters that are trained, as in
            :meth:`Architecture.block_parameters`.
        added: Modules that the method adds to the block.
    """

    base: frozenset[str] = frozenset()
    added: tuple[AddedModule, ...] = ()

    @property
    def is_frozen(self) -> bool:
        """Whether nothing in the block is trained."""
        return not (self.base or self.added)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is trained in the whole model.

    Args:
        blocks: One entry a block, the one next to the embedding first.
        embedding: Whether the embedding matrix is trained.
        final_norm: Whether the norm after the last block is trained.
        head: Whether the head is trained; where it is the embedding matrix, that is trained too.
        unties_head: Whether a head that is the embedding matrix becomes a matrix of its own first.
        inputs_need_gradients: Whether gradients must reach the first block's input although the
            embedding is frozen, as soft prompts need.
    """

    blocks: tuple[BlockTraining, ...]
    embedding: bool = False
    final_norm: bool = False
    head: bool = False
    unties_head: bool = False
    inputs_need_gradients: bool = False

    def changed(self, architecture: Architecture) -> Architecture:
        """Return the architecture once the method has been put on the model."""
        return replace(architecture, tied_embeddings=False) if self.unties_head else architecture

    def reaches_embedding(self, architecture: Architecture) -> bool:
        """Return whether gradients flow down to the embedding's output.

        They do when a tied head is trained alone: the embedding is then the same parameter, and no
        block's activations can be dropped.
        """
        tied = self.head and architecture.head_is_embedding
        return self.embedding or self.inputs_need_gradients or tied

    def lowest_block(self, architecture: Architecture) -> int:
        """Return the index of the lowest block that gradients enter, or ``n_layers`` for none."""
        if self.reaches_embedding(architecture):
            return 0
        touched = (index for index, block in enumerate(self.blocks) if not block.is_frozen)
        return next(touched, architecture.n_layers)

    def block_sizes(self, architecture: Architecture, index: int) -> Iterator[int]:
        """Yield the elements of each trained tensor of a block."""
        sizes = architecture.block_parameters()
        yield from (sizes[name] for name in sorted(self.blocks[index].base))
        for module in self.blocks[index].added:
            yield from module.parameters

    def outer_sizes(self, architecture: Architecture) -> dict[str, int]:
        """Return the elements of each trained tensor outside the blocks."""
        is_trained = {
            "embedding": self.embedding or (self.head and architecture.head_is_embedding),
            "final_norm": self.final_norm,
            "head": self.head,
        }
        return {
            name: size for name, size in architecture.outer_parameters().items() if is_trained[name]
        }

    def sizes(self, architecture: Architecture) -> list[int]:
        """Return the elements of every trained tensor of the model."""
        inner = [
            size
            for index in range(architecture.n_layers)
            for size in self.block_sizes(architecture, index)
        ]
        return inner + list(self.outer_sizes(architecture).values())

    def n_added(self) -> int:
        """Return the number of parameters that the method adds to the model."""
        return sum(sum(module.parameters) for block in self.blocks for module in block.added)


@runtime_checkable
class Footprint(Protocol):
    """Anything that can say what it trains: every method's configuration does."""

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what the method trains in a model of this architecture."""
        ...


@dataclass(frozen=True, kw_only=True)
class FullFootprint:
    """Every parameter is trained."""

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what full fine-tuning trains."""
        block = BlockTraining(base=frozenset(architecture.block_parameters()))
        return Trained(
            blocks=(block,) * architecture.n_layers, embedding=True, final_norm=True, head=True
        )


@dataclass(frozen=True, kw_only=True)
class FrozenFootprint:
    """The last blocks are trained, and on request all norms and the head.

    A head that is the embedding matrix is untied first: trained as it is, it would take gradients
    down to the embedding, and no block's activations could be dropped.

    Args:
        last_n_layers: Blocks trained whole, counted from the head, with the final norm; 0 for none.
        train_norms: Whether every norm of the model is trained, in frozen blocks too.
        train_head: Whether the head is trained.
    """

    last_n_layers: int = 2
    train_norms: bool = False
    train_head: bool = True

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what is left unfrozen.

        Raises:
            ValueError: If ``last_n_layers`` is not a number of the model's blocks.
        """
        n_layers = architecture.n_layers
        if not 0 <= self.last_n_layers <= n_layers:
            raise ValueError(f"last_n_layers={self.last_n_layers} must be in 0..{n_layers}")
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


@dataclass(frozen=True, kw_only=True)
class LoRAFootprint:
    """Low-rank updates of linear layers (Hu et al., 2021, arXiv:2106.09685).

    ``A`` (rank by d_in) needs the layer's input for its gradient, which the frozen layer alone
    would not; ``B`` (d_out by rank) needs ``A x``, ``rank`` elements a token. With dropout every
    module keeps its own dropped copy of the input and the mask.

    Args:
        rank: Inner dimension of the update.
        target_modules: Names of a block's linear layers, or ``"all-linear"``.
        dropout: Probability of dropping an element of the input.
        train_head: Whether the head is trained as well, as a new classification head must be.
    """

    rank: int = 8
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    dropout: float = 0.0
    train_head: bool = False

    def footprint(self, architecture: Architecture) -> Trained:
        """Return the pairs ``A``, ``B`` of every block.

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
        added = tuple(self._pair(architecture, linear) for linear in targets)
        return Trained(
            blocks=(BlockTraining(added=added),) * architecture.n_layers, head=self.train_head
        )

    def _pair(self, architecture: Architecture, linear: str) -> AddedModule:
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

    The gradient of the lengths needs the layer's output once more, d_out elements a token; with
    dropout it needs the base's and the update's apart. The norms are constants to the backward
    pass (section 4.3): with them in the graph it would keep a whole matrix a layer instead.
    """

    def _pair(self, architecture: Architecture, linear: str) -> AddedModule:
        _, d_out = architecture.linear_shape(linear)
        pair = super()._pair(architecture, linear)
        outputs = 2 * d_out if self.dropout else d_out
        return replace(
            pair, parameters=(*pair.parameters, d_out),
            saved_per_token=pair.saved_per_token + outputs,
        )  # fmt: skip
