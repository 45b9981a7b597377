"""Following tensors: which storages are alive, and what autograd keeps."""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_utils.models.kernels import is_going_forward
from course_utils.models.structure import transformer_blocks


class Gauge:
    """A level that goes up and down, and the highest it has been."""

    def __init__(self) -> None:
        self.current_bytes = self.peak_bytes = 0

    def add(self, n_bytes: int) -> None:
        """Raise the level, or lower it by a negative amount."""
        self.current_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)


class LiveTensors(TorchDispatchMode):
    """Follows every storage that an operation makes until it is freed.

    ``is_backward`` is for the caller to set; ``recomputed_bytes`` is then the most that repeated
    forward passes (gradient checkpointing) left for the backward pass at any one time.

    Args:
        logits_shape: Tokens and outputs: tensors of this shape are counted as logits as well.
    """

    def __init__(self, logits_shape: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.all, self.logits, self._recomputed = Gauge(), Gauge(), Gauge()
        self.is_backward = False
        self.recomputed_bytes = 0
        self._logits_shape = logits_shape
        self._followed: set[int] = set()

    def follow(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is counted, until it is freed."""
        storage = tensor.untyped_storage()
        key, n_bytes = storage_key(tensor), storage.nbytes()
        if key in self._followed:
            return
        self._followed.add(key)
        gauges = [self.all]
        if self._logits_shape and has_logits_shape(tensor, self._logits_shape):
            gauges.append(self.logits)
        elif self.is_backward and is_going_forward():
            # A forward pass is being repeated.
            gauges.append(self._recomputed)
        for gauge in gauges:
            gauge.add(n_bytes)
        weakref.finalize(storage, self._forget, key, n_bytes, gauges).atexit = False

    def _forget(self, key: int, n_bytes: int, gauges: list[Gauge]) -> None:
        self._followed.discard(key)
        for gauge in gauges:
            gauge.add(-n_bytes)

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if not is_going_forward() and operation is not torch.ops.aten.detach.default:
            # Back to gradients: what the forward pass needed only while it was repeated has gone.
            # (In the middle of it, the checkpoint detaches what it keeps.)
            self.recomputed_bytes = max(self.recomputed_bytes, self._recomputed.current_bytes)
        result = operation(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.follow(value)
        return result


class PeakMemory:
    """The most bytes that tensors held at once inside a ``with`` block.

    On CUDA this is the allocator's figure, less what had been allocated before and is not among
    ``held``. On the CPU every tensor made in the block is followed until its storage is freed,
    which slows the block down; what a kernel allocates for itself alone is not seen.

    Args:
        held: Tensors that exist already and count.
        device: Where the tensors are.
        logits_shape: See :class:`LiveTensors`.
    """

    def __init__(
        self,
        held: Iterable[Tensor] = (),
        *,
        device: torch.device | str = "cpu",
        logits_shape: tuple[int, int] | None = None,
    ) -> None:
        self.live = LiveTensors(logits_shape)
        self._device = torch.device(device)
        for tensor in held:
            self.live.follow(tensor)
        self._held_bytes = self.live.all.current_bytes

    def __enter__(self) -> "PeakMemory":
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before_bytes = torch.cuda.memory_allocated(self._device)
        self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.__exit__(*error)

    @property
    def n_bytes(self) -> int:
        """The peak so far."""
        if self._device.type != "cuda":
            return self.live.all.peak_bytes
        allocated = torch.cuda.max_memory_allocated(self._device)
        return self._held_bytes + allocated - self._before_bytes


class SavedTensors:
    """Notes what autograd saves inside a ``with`` block, and which of a model's blocks was at it.

    A storage that is saved several times counts once, for the first.

    Args:
        model: The model whose blocks tell the place.
        known: Tensors that are not counted: they exist anyway.
        logits_shape: Tokens and outputs; tensors of this shape are not counted either.
    """

    def __init__(
        self, model: nn.Module, known: Iterable[Tensor], logits_shape: tuple[int, int]
    ) -> None:
        self._blocks = transformer_blocks(model)
        self._known = {storage_key(tensor) for tensor in known}
        self._logits_shape = logits_shape
        self._place: int | None = None
        self._sizes: dict[int | None, int] = defaultdict(int)
        self._saving = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved)

    def __enter__(self) -> "SavedTensors":
        self._handles = []
        for index, block in enumerate(self._blocks):
            self._handles.append(block.register_forward_pre_hook(self._go_to(index)))
            self._handles.append(block.register_forward_hook(self._go_to(None)))
        self._saving.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._saving.__exit__(*error)
        for handle in self._handles:
            handle.remove()

    @property
    def layers_bytes(self) -> tuple[int, ...]:
        """Bytes saved by each block."""
        return tuple(self._sizes[index] for index in range(len(self._blocks)))

    @property
    def outer_bytes(self) -> int:
        """Bytes saved outside the blocks."""
        return self._sizes[None]

    def _go_to(self, place: int | None) -> Callable[..., None]:
        def hook(*_: object) -> None:
            self._place = place

        return hook

    def _pack(self, tensor: Tensor) -> Tensor:
        key = storage_key(tensor)
        if key not in self._known and not has_logits_shape(tensor, self._logits_shape):
            self._known.add(key)
            self._sizes[self._place] += tensor.untyped_storage().nbytes()
        return tensor


def storage_key(tensor: Tensor) -> int:
    """Return what identifies a tensor's storage as long as it lives."""
    return tensor.untyped_storage()._cdata


def has_logits_shape(tensor: Tensor, shape: tuple[int, int]) -> bool:
    """Return whether a tensor has one row of outputs a token, in whatever batch layout."""
    n_tokens, n_outputs = shape
    is_matrix = tensor.dim() >= 2 and tensor.shape[-1] == n_outputs
    return is_matrix and tensor.numel() == n_tokens * n_outputs
