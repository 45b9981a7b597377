"""Several adapters on one base: kept by name, switched, weighted, stacked.

The model carries one at a time; the others wait as small tensors. That holds for every method that
can be saved. A weighted sum of low-rank updates is again a low-rank update, and a weighted mean of
bottlenecks a bottleneck: the factors, or the inner dimensions, of the parts stand side by side.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.layers import adapted_layers, replace_module, shape_of
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.storage.folder import read_fitting_adapter
from course_utils.methods.storage.state import (
    AdapterState,
    adapter_tensors,
    check_fits,
    fill,
    head_tensors,
    method_of,
    put_on,
    state_of,
)
from course_utils.methods.verbs import apply, remove
from course_utils.models.structure import carried_by, soft_prompt_of
from course_utils.validation import check_choice, check_number, check_text, shown


class AdapterSet:
    """Named adapters of one model, of which one, or a mixture or a stack, is in use.

    A classifier's head belongs to its adapter. What the model learns after ``use`` is lost at the
    next ``use`` unless it is kept; a soft prompt is kept without its encoder. A call that fails
    leaves the model, and the set, as they were.

    Args:
        model: Model that carries an adapter, which is the first.
        name: What to call it.

    Raises:
        ValueError: If the model carries none.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model = model
        self.active: str | None = None
        self._kept: dict[str, AdapterState] = {}
        self.keep(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def keep(self, name: str) -> None:
        """Remember what the model carries now under ``name``, in place of what was there.

        Raises:
            ValueError: If it carries nothing, or a stack.
        """
        check_text("name", name)
        self._kept[name] = state_of(self.model)
        self.active = name

    def load(self, name: str, folder: Path | str) -> None:
        """Read an adapter of the same base from a folder, and remember it under ``name``.

        Raises:
            AdapterError: If it cannot be read, or is none for this base.
        """
        check_text("name", name)
        self._kept[name] = read_fitting_adapter(self.model, folder)

    def use(self, name: str) -> None:
        """Put the adapter called ``name`` on the model, exactly as it was kept.

        An optimizer goes on if the configurations agree; otherwise the model has new parameters.

        Raises:
            ValueError: If there is none of that name, or the model has become another.
        """
        state = self._named(name)
        with _all_or_nothing(self.model):
            self._put(state)
        self.active = name

    def mix(self, weights: Mapping[str, float]) -> None:
        """Put a weighted sum of adapters on the model, exactly.

        For LoRA that is ``W + sum_i w_i s_i B_i A_i``, and the rank is the sum of theirs; for
        bottlenecks ``h + sum_i w_i s_i (W_up f(W_down h + b_down) + b_up)_i``, and the inner width
        is: weights of 1 / k give the mean of k adapters' outputs. A classifier's head stays.

        Args:
            weights: Weight of each adapter, by name; for LoRA none at all leaves the base alone.

        Raises:
            ValueError: If there is none of a name, a weight is no finite number, the adapters
                cannot be added, or their ranks exceed a layer's.
        """
        if not isinstance(weights, Mapping):
            raise ValueError(f"weights={shown(weights)} must give a number for each name")
        parts = [(self._named(name), weight) for name, weight in weights.items()]
        for name, weight in weights.items():
            check_number(f"the weight of {name!r}", weight)
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
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError(f"weights={shown(dict(weights))} lead beyond the largest float32")
        head = {key: tensor.detach().clone() for key, tensor in head_tensors(self.model).items()}
        with _all_or_nothing(self.model):
            self._put(AdapterState(method=mixture, tensors=tensors | head))
        self.active = None

    def stack(self, names: Sequence[str]) -> None:
        """Put bottleneck adapters behind one another, the first next to the base.

        The head is the last one's (Pfeiffer et al., 2020, arXiv:2005.00052, section 2.3, put a
        task's adapter on a language's so). A stack serves; it cannot be kept or saved.

        Raises:
            ValueError: If there is none at all, none of a name, or one is no bottleneck at the same
                places.
        """
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        kept = [self._named(name) for name in names] if is_list else []
        if not kept or any(not isinstance(part.method, BottleneckConfig) for part in kept):
            raise ValueError(f"{shown(names)} must be one or more bottleneck adapters")
        if len({part.method.placement for part in kept}) > 1:
            raise ValueError(f"{list(names)} must all have the same placement")
        modules: dict[str, list[nn.Module]] = {}
        with _all_or_nothing(self.model):
            for part in kept:
                self._put(part, is_new=True)
                for name, layer in adapted_layers(self.model).items():
                    modules.setdefault(name, []).extend(layer.adapters)
            for name, layer in adapted_layers(self.model).items():
                layer.adapters = nn.ModuleList(modules[name])
        self.active = None

    def _named(self, name: str) -> AdapterState:
        check_choice("adapter", name, self._kept)
        return self._kept[name]

    def _put(self, state: AdapterState, *, is_new: bool = False) -> None:
        try:
            check_fits(self.model, state)
        except ValueError as error:
            raise ValueError(f"the adapter does not fit this model any more: {error}") from error
        layers = adapted_layers(self.model).values()
        is_stack = any(len(getattr(layer, "adapters", ())) > 1 for layer in layers)
        if not (is_new or is_stack) and state.method == self.model.fine_tuning_method:
            fill(self.model, state)
            return
        for layer in layers:
            layer.unmerge()  # or the base would be left with the old adapter in it
        if carried_by(self.model):
            remove(self.model)
        put_on(self.model, state)

    def _sum_of_low_ranks(
        self, parts: list[tuple[AdapterState, float]]
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
    parts: list[tuple[AdapterState, float]],
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


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Let a model carry again what it carried, the very same parameters, if the block fails."""
    method, prompt, layers = model.fine_tuning_method, soft_prompt_of(model), adapted_layers(model)
    merged = [layer.merged for layer in layers.values()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    except BaseException:
        if carried_by(model):
            remove(model)
        if layers:
            apply(model, method)  # for its hooks
        for (name, layer), plain in zip(layers.items(), merged, strict=True):
            layer.merged = plain
            replace_module(model, name, layer)
        if prompt is not None:
            prompt.attach_to(model)
        model.fine_tuning_method = method
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        raise


def _places(kept: AdapterState) -> frozenset[str]:
    """Return the names of an adapter's tensors, a head's left out."""
    return frozenset(key for key in kept.tensors if "lora_" in key or "adapter_" in key)


def _scaling(kept: AdapterState) -> float:
    method = kept.method
    return method.alpha / (math.sqrt(method.rank) if method.use_rslora else method.rank)
