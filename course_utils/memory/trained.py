"""What a fine-tuning method trains, in the terms that its memory follows from.

A method's configuration says so itself, through ``footprint(architecture)``; :func:`estimate` asks
for nothing else, so a new method needs no change here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from course_utils.validation import check_count, shown

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class AddedModule:
    """A small trained module beside one of a block's linear layers, or elsewhere in the block.

    It computes in float32, also where the model has 16 bits, as the methods here and PEFT's do.

    Args:
        parameters: Elements of each tensor that it adds.
        linear: The linear layer whose input it reads, or None.
        keeps_input: Whether its backward needs that input as it is. Modules that read the same
            tensor share it, in float32; beside 16 bits each has a float32 copy of its own.
        saved_per_token: Further elements that its backward needs, a token.
        saved_once: Further elements that its backward needs, however many tokens there are.
        buffers: Elements of each tensor that it holds and does not train.
        has_frozen_input_factor: Whether what reads the input is frozen, so that nothing keeps it.

    Raises:
        ValueError: If a number of elements is no whole number, at least 0.
    """

    parameters: tuple[int, ...]
    linear: str | None = None
    keeps_input: bool = False
    saved_per_token: int = 0
    saved_once: int = 0
    buffers: tuple[int, ...] = ()
    has_frozen_input_factor: bool = False

    def __post_init__(self) -> None:
        _check_elements(parameters=self.parameters, buffers=self.buffers)
        _check_elements(
            saved_per_token=(self.saved_per_token,),
            saved_once=(self.saved_once,),
        )


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
        prompt: Elements of each tensor of a soft prompt, in float32.
        prompt_keeps: Elements that its network keeps for its own backward pass.
        n_virtual_tokens: Virtual tokens that stand before each text and go through every layer.
        n_cached_tokens: Virtual tokens that are keys and values of every layer only.

    Raises:
        ValueError: If a number of elements is no whole number, at least 0.
    """

    blocks: tuple[BlockTraining, ...]
    embedding: bool = False
    final_norm: bool = False
    head: bool = False
    unties_head: bool = False
    inputs_need_gradients: bool = False
    prompt: tuple[int, ...] = ()
    prompt_keeps: int = 0
    n_virtual_tokens: int = 0
    n_cached_tokens: int = 0

    def __post_init__(self) -> None:
        _check_elements(prompt=self.prompt, prompt_keeps=(self.prompt_keeps,))

    def changed(self, architecture: "Architecture") -> "Architecture":
        """Return the architecture once the method has been put on the model."""
        return replace(architecture, tied_embeddings=False) if self.unties_head else architecture

    def reaches_embedding(self, architecture: "Architecture") -> bool:
        """Return whether gradients flow down to the embedding's output.

        They do when a tied head is trained alone: the embedding is then the same parameter, and no
        block's activations can be dropped.
        """
        tied = self.head and architecture.head_is_embedding
        return self.embedding or self.inputs_need_gradients or tied

    def lowest_block(self, architecture: "Architecture") -> int:
        """Return the index of the lowest block that gradients enter, or ``n_layers`` for none."""
        if self.reaches_embedding(architecture) or self.n_cached_tokens:
            return 0
        touched = (index for index, block in enumerate(self.blocks) if not block.is_frozen)
        return next(touched, architecture.n_layers)

    def outer_sizes(self, architecture: "Architecture") -> dict[str, int]:
        """Return the elements of each trained tensor outside the blocks."""
        is_trained = {
            "embedding": self.embedding or (self.head and architecture.head_is_embedding),
            "final_norm": self.final_norm,
            "head": self.head,
        }
        return {
            name: size for name, size in architecture.outer_parameters().items() if is_trained[name]
        }

    def base_sizes(self, architecture: "Architecture") -> list[int]:
        """Return the elements of every trained tensor that is the model's own."""
        sizes = architecture.block_parameters()
        inner = [sizes[name] for block in self.blocks for name in sorted(block.base)]
        return inner + list(self.outer_sizes(architecture).values())

    def added_sizes(self) -> list[int]:
        """Return the elements of every trained tensor that the method adds, in float32."""
        modules = [module for block in self.blocks for module in block.added]
        return [size for module in modules for size in module.parameters] + list(self.prompt)

    def sizes(self, architecture: "Architecture") -> list[int]:
        """Return the elements of every trained tensor of the model."""
        return self.base_sizes(architecture) + self.added_sizes()

    def n_added(self) -> int:
        """Return the number of parameters that the method adds to the model."""
        return sum(self.added_sizes())

    def n_buffers(self) -> int:
        """Return the elements that the method adds to the model and does not train."""
        return sum(sum(module.buffers) for block in self.blocks for module in block.added)


@runtime_checkable
class Footprint(Protocol):
    """Anything that can say what it trains: every method's configuration does."""

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what the method trains in a model of this architecture."""
        ...


def footprint_of(method: object, architecture: "Architecture") -> Trained:
    """Return what a method trains in a model of this architecture.

    Raises:
        ValueError: If it is no method's configuration, or does not fit the architecture.
    """
    if isinstance(method, type) or not isinstance(method, Footprint):
        raise ValueError(
            f"method={shown(method)} must be a method's configuration, such as LoRAConfig(rank=8)"
        )
    return method.footprint(architecture)


def beside_linears(
    architecture: "Architecture",
    target_modules: Sequence[str] | Literal["all-linear"],
    make: Callable[[int, int], AddedModule],
) -> Trained:
    """Return a module beside each target, the same in every block; a classifier's head trains too.

    Args:
        architecture: The model.
        target_modules: Names of a block's linear layers, or ``"all-linear"``.
        make: Says what stands beside a layer of (inputs, outputs).

    Raises:
        ValueError: If a target is no linear layer of a block.
    """
    known = architecture.linears
    targets = known if target_modules == "all-linear" else tuple(target_modules)
    if set(targets) - set(known) or not targets:
        raise ValueError(
            f"target_modules={target_modules!r} must be 'all-linear' or some of {', '.join(known)}"
        )
    added = tuple(replace(make(*architecture.linear_shape(n)), linear=n) for n in targets)
    return in_every_block(architecture, added)


def in_every_block(architecture: "Architecture", added: tuple[AddedModule, ...]) -> Trained:
    """Return the same modules added to every block; a classifier's head trains too."""
    block = BlockTraining(added=added)
    return Trained(blocks=(block,) * architecture.n_layers, head=architecture.n_labels is not None)


def _check_elements(**sizes: tuple[int, ...]) -> None:
    for name, several in sizes.items():
        for size in several:
            check_count(name, size, at_least=0)
