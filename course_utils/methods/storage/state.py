"""What a model's adapter consists of: its configuration and its tensors, by their names in a file.

It is taken from a model, compared with one, and put on one; where it lies meanwhile, in memory or
on a disk, is another matter.
"""

from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor, nn

from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.dylora import DyLoRAConfig, set_rank
from course_utils.methods.layers import adapted_layers, shape_of
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.lora_xs import LoRAXSConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.storage.file_pair import AdapterError, cut
from course_utils.methods.tiny_lora import TinyLoRAConfig
from course_utils.methods.verbs import apply
from course_utils.methods.virtual_tokens import SoftPromptConfig
from course_utils.models.structure import carried_by, classifier_heads

PREFIX = "base_model.model."
PROMPT, PROMPT_PREFIX = "prompt_embeddings", "base_model."

AdapterMethod = (
    LoRAConfig | LoRAXSConfig | TinyLoRAConfig | NOLAConfig | BottleneckConfig | SoftPromptConfig
)


@dataclass(frozen=True, kw_only=True)
class AdapterState:
    """An adapter, and a classifier's head, apart from any model.

    Args:
        method: Its configuration.
        tensors: Its tensors by their names in a file.
        rank_in_use: The rank that a DyLoRA is set to; None for other methods.
    """

    method: AdapterMethod
    tensors: dict[str, Tensor]
    rank_in_use: int | None = None


def state_of(model: nn.Module) -> AdapterState:
    """Return a copy of what a model carries; of a soft prompt, its tokens without their encoder.

    Raises:
        AdapterError: If it carries no adapter, or several behind one another.
    """
    method = method_of(model)
    tensors = {name: t.detach().clone() for name, t in adapter_tensors(model, method).items()}
    rank = None
    if isinstance(method, DyLoRAConfig):
        rank = next(iter(adapted_layers(model).values())).rank
    return AdapterState(method=method, tensors=tensors, rank_in_use=rank)


def put_on(model: nn.Module, state: AdapterState) -> None:
    """Put an adapter on a model that carries none.

    Of a soft prompt's encoder only the tokens were kept, so that it is not built again, whatever
    size the configuration gives it.

    Raises:
        ValueError: If it does not fit the model.
    """
    apply(model, _without_encoder(state.method))
    model.fine_tuning_method = state.method
    fill(model, state)


@torch.no_grad()
def fill(model: nn.Module, state: AdapterState) -> None:
    """Copy an adapter's numbers into a model that carries one of the same configuration."""
    if isinstance(state.method, SoftPromptConfig):
        model.soft_prompt.drop_encoder()
    for layer in adapted_layers(model).values():
        layer.unmerge()
    for name, place in adapter_tensors(model, state.method).items():
        place.copy_(state.tensors[name])
    if state.rank_in_use is not None:
        set_rank(model, state.rank_in_use)


def method_of(model: nn.Module) -> AdapterMethod:
    """Return the configuration of the adapter that a model carries.

    Raises:
        AdapterError: If it carries none.
    """
    method = getattr(model, "fine_tuning_method", None)
    if not isinstance(method, AdapterMethod) or not carried_by(model):
        raise AdapterError(f"{type(model).__name__} carries no adapter: `apply` a method first")
    return method


def adapter_tensors(model: nn.Module, method: AdapterMethod) -> dict[str, Tensor]:
    """Return the tensors of a model's adapter, and of its head, by their names in a file.

    They are the model's own, but for the tokens that a soft prompt's encoder computes.

    Raises:
        AdapterError: If there are several adapters behind one another.
    """
    if isinstance(method, SoftPromptConfig):
        prompt = model.soft_prompt
        has_encoder = prompt.encoder.network is not None
        tokens = prompt.final_tokens() if has_encoder else prompt.encoder.weight
        return {PROMPT: tokens} | head_tensors(model, PROMPT_PREFIX)
    layers = adapted_layers(model)
    if stacked := [
        name for name, layer in layers.items() if len(getattr(layer, "adapters", ())) > 1
    ]:
        raise AdapterError(f"{stacked[0]} has several adapters: save each before they are stacked")
    is_whole = getattr(method, "is_saved_whole", True)
    tensors = {
        f"{PREFIX}{name}.{theirs}": attrgetter(ours)(layer)
        for name, layer in layers.items()
        for ours, theirs in (method.saved.items() if is_whole else ())
    }
    if isinstance(method, TinyLoRAConfig):
        tensors |= method.vectors_of(layers)
    return tensors | head_tensors(model)


def head_tensors(model: nn.Module, prefix: str = PREFIX) -> dict[str, Tensor]:
    """Return the parameters of a classifier's heads, by their names in a file."""
    return {
        f"{prefix}{head}.{name}": parameter
        for head in classifier_heads(model)
        for name, parameter in model.get_submodule(head).named_parameters()
    }


def check_fits(model: nn.Module, state: AdapterState) -> None:
    """Compare an adapter's tensors with those that its configuration makes of a model.

    Raises:
        ValueError: If they differ, or the configuration does not fit the model.
    """
    expected = _expected_shapes(model, state.method)
    found = {name: tuple(tensor.shape) for name, tensor in state.tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{cut(name)} is {found.get(name, 'missing')} "
                f"and should be {expected.get(name, 'absent')}"
            )


def _without_encoder(method: AdapterMethod) -> AdapterMethod:
    """Return a configuration of the same virtual tokens, which no network computes."""
    if isinstance(method, PTuningConfig):
        return PromptTuningConfig(num_virtual_tokens=method.num_virtual_tokens, init="random")
    if isinstance(method, PrefixTuningConfig):
        return PrefixTuningConfig(num_virtual_tokens=method.num_virtual_tokens)
    return method


def _expected_shapes(model: nn.Module, method: AdapterMethod) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that an adapter of this model has in a file."""
    if isinstance(method, SoftPromptConfig):
        expected = {PROMPT: (method.num_virtual_tokens, method.token_width(model))}
        heads = head_tensors(model, PROMPT_PREFIX)
    else:
        layers = method.layers_in(model)
        expected = {
            f"{PREFIX}{name}.{method.saved[ours]}": shape
            for name, layer in layers.items()
            for ours, shape in method.tensor_shapes(*reversed(shape_of(layer))).items()
        }
        if isinstance(method, TinyLoRAConfig):
            expected |= method.vector_shapes(len(layers))
        heads = head_tensors(model)
    return expected | {name: tuple(tensor.shape) for name, tensor in heads.items()}
