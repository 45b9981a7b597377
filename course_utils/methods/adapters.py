"""Several LoRA adapters on one base: kept by name, switched, weighted and combined.

The model carries one adapter at a time; the others wait as small tensors. A weighted sum of updates
is again a low-rank update, whose factors are those of its parts side by side.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.methods.linear import adapted_layers, classifier_heads, shape_of
from course_utils.methods.lora import LoRAConfig, LoRALinear
from course_utils.methods.settings import AdapterError
from course_utils.methods.storage import PREFIX, adapter_tensors, read_fitting_adapter


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """An adapter that waits: its configuration, and its tensors by their names in a file."""

    method: LoRAConfig
    tensors: dict[str, Tensor]


class AdapterSet:
    """Named LoRA adapters of one model, of which one, or a mixture, is in use.

    A classifier's head belongs to its adapter. What the model learns after ``use`` is lost at the
    next ``use`` unless it is kept.

    Args:
        model: Model with LoRA applied; its present adapter is the first.
        name: What to call it.

    Raises:
        ValueError: If the model carries no LoRA, or one of another kind.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        layers = adapted_layers(model).values()
        if not layers or any(type(layer) is not LoRALinear for layer in layers):
            raise ValueError(f"{type(model).__name__} carries no LoRA: apply LoRAConfig first")
        self.model = model
        self.active: str | None = None
        self._kept: dict[str, _Kept] = {}
        self.keep(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def keep(self, name: str) -> None:
        """Remember what the model carries now under ``name``, in place of what was there."""
        method = self.model.fine_tuning_method
        tensors = adapter_tensors(self.model, method)
        self._kept[name] = _Kept(
            method=method, tensors={key: value.detach().clone() for key, value in tensors.items()}
        )
        self.active = name

    def load(self, name: str, folder: Path | str) -> None:
        """Read an adapter of the same layers from a folder, and remember it under ``name``.

        Raises:
            AdapterError: If it cannot be read, or is none for these layers of this base.
        """
        stored = read_fitting_adapter(self.model, folder)
        present = adapter_tensors(self.model, self.model.fine_tuning_method)
        if type(stored.method) is not LoRAConfig or stored.tensors.keys() != present.keys():
            raise AdapterError(f"{folder} is no LoRA of the layers that this model adapts")
        self._kept[name] = _Kept(method=stored.method, tensors=stored.tensors)

    def use(self, name: str) -> None:
        """Put the adapter called ``name`` on the model, exactly as it was kept.

        An optimizer goes on if the ranks agree; otherwise the model has new parameters.

        Raises:
            KeyError: If there is none of that name.
        """
        kept = self._named(name)
        self._put(kept.method, kept.tensors)
        self.active = name

    def mix(self, weights: Mapping[str, float]) -> None:
        """Put the weighted sum of adapters on the model: ``W + sum_i w_i s_i B_i A_i``, exactly.

        The rank of the mixture is the sum of theirs. A classifier's head stays as it is.

        Args:
            weights: Weight of each adapter, by name; none at all leaves the base alone.

        Raises:
            KeyError: If there is none of a name.
            ValueError: If the ranks add up to more than a layer can have.
        """
        parts = [(self._named(name), weight) for name, weight in weights.items()]
        rank = sum(kept.method.rank for kept, _ in parts) or 1
        layers = adapted_layers(self.model)
        most = min(min(shape_of(layer.base)) for layer in layers.values())
        if rank > most:
            raise ValueError(f"ranks that add up to {rank} must not exceed {most}")
        tensors = {}
        for key, tensor in adapter_tensors(self.model, self.model.fine_tuning_method).items():
            if key.endswith("lora_A.weight"):
                pieces = [kept.tensors[key] for kept, _ in parts] or [tensor[:1]]
                tensors[key] = torch.cat([piece.to(tensor.device) for piece in pieces])
            elif key.endswith("lora_B.weight"):
                pieces = [w * _scaling(kept) * kept.tensors[key] for kept, w in parts]
                pieces = pieces or [torch.zeros_like(tensor[:, :1])]
                tensors[key] = torch.cat([piece.to(tensor.device) for piece in pieces], dim=1)
        # The strength is in B from here on, whatever alpha the parts were trained with.
        method = replace(self.model.fine_tuning_method, rank=rank, alpha=rank, use_rslora=False)
        self._put(method, tensors)
        self.active = None

    def _named(self, name: str) -> _Kept:
        if name not in self._kept:
            raise KeyError(f"adapter {name!r} must be one of {', '.join(self._kept)}")
        return self._kept[name]

    @torch.no_grad()
    def _put(self, method: LoRAConfig, tensors: Mapping[str, Tensor]) -> None:
        places = adapter_tensors(self.model, self.model.fine_tuning_method)
        for name, layer in adapted_layers(self.model).items():
            layer.unmerge()
            layer.alpha, layer.use_rslora = method.alpha, method.use_rslora
            for attribute, suffix in method.saved.items():
                key = f"{PREFIX}{name}.{suffix}"
                _put_parameter(layer, attribute, tensors[key])
        for head in classifier_heads(self.model):
            for key in (key for key in places if key.startswith(f"{PREFIX}{head}.")):
                places[key].copy_(tensors.get(key, places[key]))
        self.model.fine_tuning_method = method


def _put_parameter(layer: nn.Module, attribute: str, tensor: Tensor) -> None:
    """Copy a tensor into a parameter, or put a new one in its place if the shapes differ."""
    place = getattr(layer, attribute)
    if place.shape == tensor.shape:
        place.copy_(tensor)
    else:
        setattr(layer, attribute, nn.Parameter(tensor.to(place.device, place.dtype).clone()))


def _scaling(kept: _Kept) -> float:
    method = kept.method
    return method.alpha / (method.rank**0.5 if method.use_rslora else method.rank)
