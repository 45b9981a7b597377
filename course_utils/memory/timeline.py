"""When the parts of a training step are held: the moments that can be the peak."""

from dataclasses import dataclass

from course_utils.memory.activations import (
    SavedTensor,
    block_tensors,
    rotary_bytes,
    total_bytes,
)
from course_utils.memory.architecture import Architecture
from course_utils.memory.parts import FLOAT32_BYTES
from course_utils.memory.trained import BlockTraining, Trained
from course_utils.memory.workload import Workload


@dataclass(frozen=True, kw_only=True)
class KeptByBlocks:
    """What the blocks keep between the forward and the backward pass.

    Args:
        layers_bytes: Kept by each block.
        recomputed_bytes: Made again while going back through each block, one at a time.
        lowest: Index of the lowest block that gradients are carried through.
        tensors: What each block keeps, or makes again, tensor by tensor.
    """

    layers_bytes: tuple[int, ...]
    recomputed_bytes: tuple[int, ...]
    lowest: int
    tensors: tuple[tuple[SavedTensor, ...], ...]


@dataclass(frozen=True)
class Step:
    """A training step: what is trained, on what, and what the blocks keep for it."""

    architecture: Architecture
    trained: Trained
    workload: Workload
    kept: KeptByBlocks
    accumulates_gradients: bool


def kept_by_blocks(
    architecture: Architecture, trained: Trained, workload: Workload, *, is_checkpointed: bool
) -> KeptByBlocks:
    """Return what the blocks keep, with or without gradient checkpointing."""
    lowest = 0 if is_checkpointed else trained.lowest_block(architecture)
    reaches_input = is_checkpointed or trained.reaches_embedding(architecture)
    blocks = [
        block_tensors(
            architecture, training, workload, input_needs_gradient=reaches_input or index > lowest
        )
        for index, training in enumerate(trained.blocks)
    ]
    tensors = tuple(kept for kept, _ in blocks)
    sizes = [total_bytes(block) for block in tensors]
    if not is_checkpointed:
        rotates = [has_rotation for _, has_rotation in blocks]
        if any(rotates):
            # Shared by all blocks: counted where it is first kept.
            sizes[rotates.index(True)] += rotary_bytes(architecture, workload)
        return KeptByBlocks(
            layers_bytes=tuple(sizes),
            recomputed_bytes=(0,) * architecture.n_layers,
            lowest=lowest,
            tensors=tensors,
        )
    block_input = workload.n_tokens * architecture.d_model * workload.dtype_bytes
    # In float32 the first norm keeps the block's input itself, which is there already.
    is_shared = workload.dtype_bytes == FLOAT32_BYTES and architecture.norm_placement != "post"
    return KeptByBlocks(
        layers_bytes=(block_input,) * architecture.n_layers,
        recomputed_bytes=tuple(
            size
            - (block_input if is_shared else 0)
            + _held_with_the_last(architecture, block) * workload.n_tokens * workload.dtype_bytes
            for size, block in zip(sizes, trained.blocks, strict=True)
        ),
        lowest=lowest,
        tensors=tensors,
    )


def _held_with_the_last(architecture: Architecture, block: BlockTraining) -> int:
    """Return what is held beside what is kept, a token, when a repeated block stops, in elements.

    It stops with the last tensor that is kept. Where that is a module's with a frozen factor beside
    the MLP's last layer, the layer's output is there already, and the inputs of the MLP and of that
    layer are there still, though nothing keeps them.
    """
    frozen = {module.linear for module in block.added if module.has_frozen_input_factor}
    if "down_proj" not in frozen:
        return 0
    is_read = any(m.keeps_input for m in block.added if m.linear in ("gate_proj", "up_proj"))
    return architecture.d_ff + (1 if is_read else 2) * architecture.d_model


def moments(step: Step, parts: dict[str, int | tuple[int, ...]]) -> tuple[tuple[str, int], ...]:
    """Return what is held at each moment of a step that can be the peak, as (name, bytes).

    Weights and optimizer states are always there. Gradients of the step before were dropped
    (``zero_grad(set_to_none=True)``), unless they accumulate; new ones appear from the head down,
    while each block's activations go.

    - ``frozen blocks``: on the way up, before anything is kept, one block's intermediate tensors.
    - ``cache``: on the way up in the last block, where the cache of a prefix holds keys and values
      of every block beside those that are kept, repeated for every query head.
    - ``loss``: all activations, and the logits at their largest.
    - ``blocks``: on the way down, one block's activations with the gradients inside it.
    - ``embedding``: all gradients. A tied matrix has two, the head's and the embedding's, and their
      sum is a third tensor.
    - ``optimizer``: all gradients, nothing else.

    Args:
        step: The step.
        parts: The parts of its memory, by the names of :class:`MemoryParts`.

    Returns:
        The moments in the order they come.
    """
    trained, gradients = step.trained, parts["gradients_bytes"]
    earlier = gradients if step.accumulates_gradients else 0
    base = parts["weights_bytes"] + parts["optimizer_bytes"] + earlier
    kept = sum(parts["layers_bytes"]) + parts["outer_bytes"]
    embedding = trained.outer_sizes(step.architecture).get("embedding", 0)
    matrix = embedding * step.workload.dtype_bytes
    is_tied = trained.head and step.architecture.head_is_embedding
    copies = _cached_beside_kept(step)
    if step.accumulates_gradients:
        at_embedding = 3 * matrix if is_tied else matrix
    else:
        at_embedding = gradients + (2 * matrix if is_tied else 0)
    return (
        ("frozen blocks", base + _inside_frozen_block(step) if step.kept.lowest else 0),
        *((("cache", base + sum(parts["layers_bytes"]) + copies),) if copies else ()),
        ("loss", base + kept + parts["logits_bytes"]),
        ("blocks", base + _highest_block(step)),
        ("embedding", base + at_embedding),
        ("optimizer", parts["weights_bytes"] + parts["optimizer_bytes"] + gradients),
    )


def _highest_block(step: Step) -> int:
    """Return the most that is held while going back through the blocks, last to first."""
    arch, layers = step.architecture, step.kept.layers_bytes
    element = step.workload.dtype_bytes
    gradients = element * _above_blocks(step)
    kept, highest = sum(layers), 0
    for index in reversed(range(step.kept.lowest, arch.n_layers)):
        inside = step.kept.recomputed_bytes[index] + _inside_block(step, index)
        highest = max(highest, gradients + kept + inside)
        kept -= layers[index]
        if not step.accumulates_gradients:
            gradients += _gradients_of_block(step, index)
    return highest


def _gradients_of_block(step: Step, index: int) -> int:
    """Return the bytes of a block's gradients: the base's in its type, what is added in float32."""
    block, sizes = step.trained.blocks[index], step.architecture.block_parameters()
    base = sum(sizes[name] for name in block.base)
    added = sum(sum(module.parameters) for module in block.added)
    return base * step.workload.dtype_bytes + added * FLOAT32_BYTES


def _above_blocks(step: Step) -> int:
    """Return the elements of the gradients that are there when the last block's turn comes.

    The head's and the final norm's, or, if they only add to earlier ones, that of a tied head: it
    waits for the embedding's.
    """
    sizes = step.trained.outer_sizes(step.architecture)
    is_tied = step.trained.head and step.architecture.head_is_embedding
    embedding = sizes.pop("embedding", 0)
    above = 0 if step.accumulates_gradients else sum(sizes.values())
    return above + (embedding if is_tied else 0)


def _inside_block(step: Step, index: int) -> int:
    """Return the gradients of intermediate tensors while going back through one block.

    In the MLP, the residual stream's gradient is there (``d`` a token) and, first, that of the last
    layer's input, once more in float32 where an added module reads it; then those of the three
    tensors of the product (``3 f``), when what was kept of that input has gone and the gradient of
    the last layer's weight is there. In eager attention, the gradients of the softmax's output and
    input (``2 h s``), but what the MLP kept has gone.
    """
    arch, load = step.architecture, step.workload
    stream = load.n_tokens * arch.d_model * load.dtype_bytes
    width = load.n_tokens * arch.d_ff
    block = step.trained.blocks[index]
    is_read = any(module.linear == "down_proj" and module.keeps_input for module in block.added)
    at_input = width * (load.dtype_bytes + (FLOAT32_BYTES if is_read else 0))
    gone = total_bytes(t for t in step.kept.tensors[index] if t.name.startswith("down_proj: input"))
    if "down_proj.weight" in block.base and not step.accumulates_gradients:
        gone -= arch.block_parameters()["down_proj.weight"] * load.dtype_bytes
    in_mlp = stream + max(at_input, 3 * width * load.dtype_bytes - gone)
    if load.attention != "eager":
        return in_mlp
    softmax = load.n_tokens * arch.n_heads * load.n_keys * FLOAT32_BYTES
    return max(in_mlp, stream + 2 * softmax - total_bytes(step.kept.tensors[index], "mlp"))


def _inside_frozen_block(step: Step) -> int:
    """Return the intermediate tensors of a forward pass that keeps nothing.

    The block's input, the residual stream and its norm are held (``3 d`` a token), then the MLP's
    product and its factors (``3 f``). Eager attention returns the softmax (``h s``), which is held
    through the MLP; before that there are the scores, the mask (``h s + s``) and queries, keys and
    values.
    """
    arch, load = step.architecture, step.workload
    inside = 3 * arch.d_ff
    if load.attention == "eager":
        softmax = arch.n_heads * load.seq_len
        inside = softmax + max(inside, softmax + load.seq_len + 3 * arch.q_width)
    return load.n_tokens * (3 * arch.d_model + inside) * load.dtype_bytes


def _cached_beside_kept(step: Step) -> int:
    """Return the cache of a prefix, if it is not kept as it is, and what the last block adds to it.

    At the end of that block's MLP, its product, its output and its norm (``f + 2 d`` a token) are
    held, and the mask, a byte a key. The cache is dropped with the model's output, once the loss is
    known.
    """
    arch, load = step.architecture, step.workload
    if not load.n_cached_tokens or arch.kv_width == arch.q_width:
        return 0
    cache = load.batch_size * load.n_keys * arch.cache_width
    inside = load.n_tokens * (arch.d_ff + 2 * arch.d_model)
    return (cache + inside) * load.dtype_bytes + load.n_tokens * load.n_keys
