"""Several adapters on one base: kept by name, switched, weighted, stacked.

The model carries one at a time; the others wait as small tensors. That holds for every method that
can be saved. A weighted sum of low-rank updates is again a low-rank update, and a weighted mean of
bottlenecks a bottleneck: the factors, or the inner dimensions, of the parts stand side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.layers import adapted_layers, shape_of
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.storage.folder import (
    adapter_tensors,
    head_tensors,
    method_of,
    put_tensors,
    read_fitting_adapter,
)
from course_utils.methods.storage.peft_format import AdapterMethod
from course_utils.methods.verbs import apply, remove
from course_utils.models.structure import carried_by


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """An adapter that waits: its configuration, and its tensors by their names in a file."""

    method: AdapterMethod
    tensors: dict[str, Tensor]


class AdapterSet:
    """Named adapters of one model, of which one, or a mixture or a stack, is in use.

    A classifier's head belongs to its adapter. What the model learns after ``use`` is lost at the
    next ``use`` unless it is kept; a soft prompt is kept without its encoder.

    Args:
        model: Model that carries an adapter, which is the first.
        name: What to call it.

    Raises:
        ValueError: If the model carries none.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model = model
        self.active: str | None = None
        self._kept: dict[str, _Kept] = {}
        self.keep(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def keep(self, name: str) -> None:
        """Remember what the model carries now under ``name``, in place of what was there.

        Raises:
            ValueError: If it carries nothing, or a stack.
        """
        method = method_of(self.model)
        tensors = adapter_tensors(self.model, method)
        self._kept[name] = _Kept(
            method=method, tensors={key: value.detach().clone() for key, value in tensors.items()}
        )
        self.active = name

    def load(self, name: str, folder: Path | str) -> None:
        """Read an adapter of the same base from a folder, and remember it under ``name``.

        Raises:
            AdapterError: If it cannot be read, or is none for this base.
        """
        stored = read_fitting_adapter(self.model, folder)
        self._kept[name] = _Kept(method=stored.method, tensors=stored.tensors)

    def use(self, name: str) -> None:
        """Put the adapter called ``name`` on the model, exactly as it was kept.

        An optimizer goes on if the configurations agree; otherwise the model has new parameters.

        Raises:
            KeyError: If there is none of that name.
        """
        kept = self._named(name)
        self._put(kept.method, kept.tensors)
        self.active = name

    def mix(self, weights: Mapping[str, float]) -> None:
        """Put a weighted sum of adapters on the model, exactly.

        For LoRA that is ``W + sum_i w_i s_i B_i A_i``, and the rank is the sum of theirs; for
        bottlenecks ``h + sum_i w_i s_i (W_up f(W_down h + b_down) + b_up)_i``, and the inner width
        is: weights of 1 / k give the mean of k adapters' outputs. A classifier's head stays.

        Args:
            weights: Weight of each adapter, by name; for LoRA none at all leaves the base alone.

        Raises:
            KeyError: If there is none of a name.
            ValueError: If the adapters cannot be added, or their ranks exceed a layer's.
        """
        parts = [(self._named(name), weight) for name, weight in weights.items()]
        methods = [kept.method for kept, _ in parts] or [method_of(self.model)]
        kinds = {type(method) for method in methods}
        if len({_places(kept) for kept, _ in parts}) > 1:
            raise ValueError(f"{', '.join(weights)} adapt different layers and cannot be mixed")
        if kinds == {BottleneckConfig}:
            mixture, tensors = _mean_of_bottlenecks(parts)
        elif kinds == {LoRAConfig}:
            mixture, tensors = self._sum_of_low_ranks(parts)
        else:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(f"{names} cannot be mixed: all must be LoRA, or all bottlenecks")
        head = {key: tensor.detach().clone() for key, tensor in head_tensors(self.model).items()}
        self._put(mixture, tensors | head)
        self.active = None

    def stack(self, names: Sequence[str]) -> None:
        """Put bottleneck adapters behind one another, the first next to the base.

        The head is the last one's (Pfeiffer et al., 2020, arXiv:2005.00052, section 2.3, put a
        task's adapter on a language's so). A stack serves; it cannot be kept or saved.

        Raises:
            KeyError: If there is none of a name.
            ValueError: If there is none at all, or one is no bottleneck at the same places.
        """
        kept = [self._named(name) for name in names]
        if not kept or any(not isinstance(part.method, BottleneckConfig) for part in kept):
            raise ValueError(f"{list(names)} must be one or more bottleneck adapters")
        if len({part.method.placement for part in kept}) > 1:
            raise ValueError(f"{list(names)} must all have the same placement")
        modules: dict[str, list[nn.Module]] = {}
        for part in kept:
            self._put(part.method, part.tensors, is_new=True)
            for name, layer in adapted_layers(self.model).items():
                modules.setdefault(name, []).extend(layer.adapters)
        for name, layer in adapted_layers(self.model).items():
            layer.adapters = nn.ModuleList(modules[name])
        self.active = None

    def _named(self, name: str) -> _Kept:
        if name not in self._kept:
            raise KeyError(f"adapter {name!r} must be one of {', '.join(self._kept)}")
        return self._kept[name]

    def _put(
        self, method: AdapterMethod, tensors: Mapping[str, Tensor], *, is_new: bool = False
    ) -> None:
        is_stack = any(
            len(getattr(layer, "adapters", ())) > 1 for layer in adapted_layers(self.model).values()
        )
        if is_new or is_stack or method != self.model.fine_tuning_method:
            if carried_by(self.model):
                remove(self.model)
            apply(self.model, method)
        for layer in adapted_layers(self.model).values():
            layer.unmerge()
        put_tensors(self.model, tensors)

    def _sum_of_low_ranks(
        self, parts: list[tuple[_Kept, float]]
    ) -> tuple[LoRAConfig, dict[str, Tensor]]:
        rank = sum(kept.method.rank for kept, _ in parts) or 1
        first = parts[0][0] if parts else None
        method = first.method if first else self.model.fine_tuning_method
        most = min(min(shape_of(layer)) for layer in method.layers_in(self.model).values())
        if rank > most:
            raise ValueError(f"ranks that add up to {rank} must not exceed {most}")
        tensors: dict[str, Tensor] = {}
        start = first.tensors if first else adapter_tensors(self.model, method)
        for key, tensor in start.items():
            if key.endswith("lora_A.weight"):
                pieces = [kept.tensors[key] for kept, _ in parts] or [tensor[:1]]
                tensors[key] = torch.cat([piece.to(tensor.device) for piece in pieces])
            elif key.endswith("lora_B.weight"):
                pieces = [w * _scaling(kept) * kept.tensors[key] for kept, w in parts]
                pieces = pieces or [torch.zeros_like(tensor[:, :1])]
                tensors[key] = torch.cat([piece.to(tensor.device) for piece in pieces], dim=1)
        # The strength is in B from here on, whatever alpha the parts were trained with.
        return replace(method, rank=rank, alpha=rank, use_rslora=False), tensors


def _mean_of_bottlenecks(
    parts: list[tuple[_Kept, float]],
) -> tuple[BottleneckConfig, dict[str, Tensor]]:
    """Return one adapter as wide as all parts together, the weights in its upper layer."""
    if not parts:
        raise ValueError("a mixture of bottlenecks must have at least one")
    first = parts[0][0]
    for kept, _ in parts[1:]:
        if kept.method.activation != first.method.activation:
            raise ValueError("bottlenecks that are mixed must have the same activation")
    tensors = {}
    for key, tensor in first.tensors.items():
        pieces = [kept.tensors[key].to(tensor.device) for kept, _ in parts]
        strengths = [weight * kept.method.scaling for kept, weight in parts]
        scaled = [s * piece for s, piece in zip(strengths, pieces, strict=True)]
        if "adapter_down." in key:
            tensors[key] = torch.cat(pieces)
        elif key.endswith("adapter_up.weight"):
            tensors[key] = torch.cat(scaled, dim=1)
        elif key.endswith("adapter_up.bias"):
            tensors[key] = torch.stack(scaled).sum(dim=0)
    size = next(len(tensor) for key, tensor in tensors.items() if "adapter_down.bias" in key)
    return replace(first.method, bottleneck_size=size, scaling=1.0), tensors


def _places(kept: _Kept) -> frozenset[str]:
    """Return the names of an adapter's tensors, a head's left out."""
    return frozenset(key for key in kept.tensors if "lora_" in key or "adapter_" in key)


def _scaling(kept: _Kept) -> float:
    method = kept.method
    return method.alpha / (method.rank**0.5 if method.use_rslora else method.rank)
