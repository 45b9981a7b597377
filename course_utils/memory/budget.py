"""How much memory a training step takes, from the model's shape and the batch alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from course_utils.memory.activations import SavedTensor, logits_bytes, outer_bytes
from course_utils.memory.architecture import LINEARS, Architecture, architecture_of
from course_utils.memory.optimizers import pageable_bytes, state_bytes
from course_utils.memory.parts import FLOAT32_BYTES, MemoryParts, dtype_bytes
from course_utils.memory.timeline import Step, kept_by_blocks, moments
from course_utils.memory.trained import Footprint, Trained, footprint_of
from course_utils.memory.workload import Workload
from course_utils.validation import check_flag, check_number

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate(MemoryParts):
    """What :func:`estimate` returns.

    Args:
        architecture: The model's shape, once the method has been put on it.
        n_parameters: Its parameters, with those that the method adds.
        n_trained: Those that are trained.
        pageable_bytes: Those of the optimizer's states that a paged optimizer can move to the host.
        paged_out_peak_bytes: The peak on the card while all of these are on the host, but for one
            tensor's at a time during the optimizer's step. Where more memory is free they stay on
            the card, up to ``peak_bytes``.
        moments: The moments of a step that can be the peak, as (name, bytes).
        block: What one block keeps, tensor by tensor: the last, which all methods train most.
    """

    architecture: Architecture
    n_parameters: int
    n_trained: int
    pageable_bytes: int
    paged_out_peak_bytes: int
    moments: tuple[tuple[str, int], ...]
    block: tuple[SavedTensor, ...]

    @property
    def peak_moment(self) -> str:
        """The moment of a step at which most memory is held."""
        return max(self.moments, key=lambda moment: moment[1])[0]


def estimate(
    model: "nn.Module | PreTrainedConfig | Architecture | str",
    method: Footprint,
    *,
    batch_size: int,
    seq_len: int,
    dtype: str = "float32",
    optimizer: str = "adamw",
    mixed_precision: bool = False,
    gradient_checkpointing: bool = False,
    attention: Literal["sdpa", "eager"] = "sdpa",
    is_padded: bool = False,
    accumulates_gradients: bool = False,
    frozen_weight_bits: float | None = None,
    target_share: float | None = None,
) -> MemoryEstimate:
    """Estimate the memory of one training step, which need not fit on this machine.

    ``weights`` is parameters times bytes an element, ``gradients`` trained parameters times the
    same; what a method adds to the model is in float32 whatever the model's type, as the methods
    here and PEFT's keep it. ``optimizer`` follows
    :func:`~course_utils.memory.optimizers.state_bytes`; with mixed precision Adam that makes
    2 + 2 + 12 = 16 bytes a trained parameter (Rajbhandari et al., 2019, arXiv:1910.02054, section
    3.1). ``torch.autocast`` comes to much the same by another way:
    weights and gradients stay in float32, 4 + 4 + 8 bytes, and the forward pass keeps a 16-bit copy
    of the linear layers' weights, 2 more. What depends on the batch is derived in
    :mod:`course_utils.memory.activations`, the peak in
    :func:`~course_utils.memory.timeline.moments`.

    What the model needs is counted, tensor by tensor. Not counted are what kernels allocate for
    themselves, the one weight at a time that a quantised layer restores, the allocator's rounding
    and gaps, and the CUDA context (some hundred megabytes).

    Gradient checkpointing (Chen et al., 2016, arXiv:1604.06174) keeps one tensor a block, its
    input, and makes the rest again for one block at a time. As transformers switches it on, it also
    asks for the gradient of the embedding's output; then *every* block's input is kept and every
    block is gone back through, even below the lowest trained parameter, so that a model of which
    only the last blocks are trained may need more memory with it than without.

    Args:
        model: A model, its configuration, an architecture, or a well-known name.
        method: Anything with ``footprint(architecture)``: a method's configuration.
        batch_size: Sequences a step.
        seq_len: Tokens a sequence, padding included.
        dtype: Type of the model's weights and activations: ``float32``, ``float16`` or
            ``bfloat16``.
        optimizer: ``adamw``, ``adamw8bit``, these two with ``paged_`` before it, ``sgd`` or
            ``sgd_momentum``.
        mixed_precision: Whether the optimizer keeps a float32 copy of the trained weights.
        gradient_checkpointing: Whether blocks are recomputed in the backward pass.
        attention: Implementation of attention, as transformers names it.
        is_padded: Whether the attention mask hides any token.
        accumulates_gradients: Whether gradients of earlier batches are there during the step.
        frozen_weight_bits: Bits an element of the blocks' linear weights, if these are stored
            quantised: 4.127 for NF4 with double quantisation (arXiv:2305.14314).
        target_share: Share of the tokens that are targets, where a language model's head is
            computed at these alone and in parts, as ``train`` does it; None for every token at
            once, as ``model(**batch)`` does it.

    Raises:
        ValueError: If an argument is out of range, or two contradict each other.
    """
    architecture = architecture_of(model)
    trained = footprint_of(method, architecture)
    check_flag("gradient_checkpointing", gradient_checkpointing)
    check_flag("accumulates_gradients", accumulates_gradients)
    if trained.n_cached_tokens and gradient_checkpointing:
        raise ValueError(
            "gradient_checkpointing=True does without the cache, through which virtual keys and "
            f"values enter, {trained.n_cached_tokens} a layer: it must be False"
        )
    architecture = trained.changed(architecture)
    workload = Workload(
        batch_size=batch_size,
        seq_len=seq_len,
        dtype_bytes=dtype_bytes(dtype),
        attention=attention,
        is_padded=is_padded,
        n_virtual_tokens=trained.n_virtual_tokens,
        n_cached_tokens=trained.n_cached_tokens,
        target_share=target_share,
    )
    _check_precision(dtype, mixed_precision, frozen_weight_bits)
    kept = kept_by_blocks(architecture, trained, workload, is_checkpointed=gradient_checkpointing)
    step = Step(architecture, trained, workload, kept, accumulates_gradients)
    parts = _parts(step, optimizer, mixed_precision, frozen_weight_bits)
    peaks, sizes = moments(step, parts), trained.sizes(architecture)
    pageable = pageable_bytes(sizes, optimizer)
    return MemoryEstimate(
        architecture=architecture,
        n_parameters=architecture.n_parameters + trained.n_added(),
        n_trained=sum(sizes),
        pageable_bytes=sum(pageable),
        paged_out_peak_bytes=_paged_out_peak(peaks, pageable),
        moments=peaks,
        block=kept.tensors[-1],
        peak_bytes=max(size for _, size in peaks),
        **parts,
    )


def _paged_out_peak(moments: tuple[tuple[str, int], ...], pageable: list[int]) -> int:
    """Peak without the states that can be paged out, but for the tensor whose step is computed."""
    in_use = {"optimizer": max(pageable, default=0)}
    return max(size + in_use.get(name, 0) for name, size in moments) - sum(pageable)


def _parts(
    step: Step, optimizer: str, mixed_precision: bool, frozen_weight_bits: float | None
) -> dict[str, int | tuple[int, ...]]:
    """Return the parts by the names that :class:`MemoryParts` gives them, the peak left out."""
    architecture, trained, workload = step.architecture, step.trained, step.workload
    base, added = trained.base_sizes(architecture), trained.added_sizes()
    element_bytes = workload.dtype_bytes
    states = state_bytes(base, optimizer, element_bytes, mixed_precision=mixed_precision)
    states += state_bytes(added, optimizer, FLOAT32_BYTES)
    return {
        "weights_bytes": _weights_bytes(architecture, trained, element_bytes, frozen_weight_bits),
        "gradients_bytes": sum(base) * element_bytes + sum(added) * FLOAT32_BYTES,
        "optimizer_bytes": states,
        "layers_bytes": step.kept.layers_bytes,
        "recomputed_bytes": max(step.kept.recomputed_bytes),
        "outer_bytes": outer_bytes(architecture, trained, workload),
        "logits_bytes": logits_bytes(architecture, workload, trains_head=trained.head),
    }


def _check_precision(dtype: str, mixed_precision: bool, frozen_weight_bits: float | None) -> None:
    check_number("frozen_weight_bits", frozen_weight_bits, above=0, at_most=32, is_none_ok=True)
    check_flag("mixed_precision", mixed_precision)
    if mixed_precision and dtype_bytes(dtype) == 4:
        raise ValueError(
            f"mixed_precision=True keeps a float32 copy of 16-bit weights: dtype={dtype!r} "
            "must be 'bfloat16' or 'float16'"
        )


def _weights_bytes(
    architecture: Architecture, trained: Trained, element_bytes: int, bits: float | None
) -> int:
    """Bytes of all the model holds, the blocks' linear weights at ``bits`` an element if given."""
    added = FLOAT32_BYTES * (trained.n_added() + trained.n_buffers())
    if bits is None:
        return architecture.n_parameters * element_bytes + added
    weights = frozenset(f"{linear}.weight" for linear in LINEARS)
    if any(weights & block.base for block in trained.blocks):
        raise ValueError(
            f"frozen_weight_bits={bits} is for weights that stay as they are, "
            "but the method trains linear weights of the blocks"
        )
    block = architecture.block_parameters()
    n_linear = architecture.n_layers * sum(block[name] for name in weights)
    others = (architecture.n_parameters - n_linear) * element_bytes
    return round(n_linear * bits / 8) + others + added
