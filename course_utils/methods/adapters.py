"""Several LoRA adapters on one base: kept by name, switched, weighted and combined.

The model carries one adapter at a time; the others wait as small tensors. A weighted sum of updates
is again a low-rank update, whose factors are those of its parts side by side.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from course_utils.methods.linear import adapted_layers
from course_utils.methods.lora import LoRALinear

Factors = dict[str, tuple[Tensor, Tensor]]


class AdapterSet:
    """Named LoRA adapters of one model, of which one, or a mixture, is in use.

    Args:
        model: Model with LoRA applied; its present adapter is the first.
        name: What to call it.

    Raises:
        ValueError: If the model carries no LoRA, or one of another kind.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        layers = adapted_layers(model)
        if not layers or any(type(layer) is not LoRALinear for layer in layers.values()):
            raise ValueError(f"{type(model).__name__} carries no LoRA: apply LoRAConfig first")
        self.model = model
        self._layers = layers
        self._stored: dict[str, Factors] = {}
        self.active: str | None = None
        self.keep(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def keep(self, name: str) -> None:
        """Remember what the model carries now under ``name``, in place of what was there."""
        self._stored[name] = {
            key: (layer.A.detach().clone(), layer.scaling * layer.B.detach())
            for key, layer in self._layers.items()
        }
        self.active = name

    def use(self, name: str) -> None:
        """Put the adapter called ``name`` on the model; training goes on from it.

        Raises:
            KeyError: If there is none of that name.
        """
        self.mix({name: 1.0})
        self.active = name

    def mix(self, weights: Mapping[str, float]) -> None:
        """Put the weighted sum of adapters on the model: ``W + sum_i w_i B_i A_i``, exactly.

        The rank of the mixture is the sum of theirs.

        Args:
            weights: Weight of each adapter, by name; none at all leaves the base alone.

        Raises:
            KeyError: If there is none of a name.
        """
        for name in weights:
            if name not in self._stored:
                raise KeyError(f"adapter {name!r} must be one of {', '.join(self._stored)}")
        for key, layer in self._layers.items():
            parts = [(*self._stored[name][key], weight) for name, weight in weights.items()]
            parts = parts or [(layer.A.detach(), torch.zeros_like(layer.B), 0.0)]
            layer.unmerge()
            # The strength is in B from here on, whatever alpha the parts were trained with.
            layer.rank = layer.alpha = sum(len(A) for A, _, _ in parts)
            layer.use_rslora = False
            layer.A = nn.Parameter(torch.cat([A for A, _, _ in parts]))
            layer.B = nn.Parameter(torch.cat([weight * B for _, B, weight in parts], dim=1))
        method = self.model.fine_tuning_method
        options = {"rank": layer.rank, "alpha": layer.alpha, "use_rslora": False}
        self.model.fine_tuning_method = replace(method, **options)
        self.active = None
