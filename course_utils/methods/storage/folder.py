"""Adapters on disk: in PEFT's own format where PEFT has the method, so that they travel both ways.

A folder holds adapter_config.json and adapter_model.safetensors. The tensors' header also says
which configuration they belong to and which base model they were trained on.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_utils.methods.layers import adapted_layers, find_linear, shape_of
from course_utils.methods.storage.fingerprint import base_fingerprint, is_same_base
from course_utils.methods.storage.peft_format import (
    OWN_KEY,
    AdapterError,
    AdapterMethod,
    method_from,
    settings_of,
)
from course_utils.methods.verbs import apply
from course_utils.methods.virtual_tokens import SoftPromptConfig, drop_encoder
from course_utils.models.structure import carried_by, classifier_heads

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
FORMAT_VERSION = "1"
PREFIX = "base_model.model."
PROMPT, PROMPT_PREFIX = "prompt_embeddings", "base_model."


@dataclass(frozen=True, kw_only=True)
class StoredAdapter:
    """An adapter as it lies on disk.

    Args:
        method: Its configuration.
        tensors: Its tensors by their names in the file.
        header: What the tensors' header says of them.
        base_name: Name of the base model; empty if it is not said.
    """

    method: AdapterMethod
    tensors: dict[str, Tensor]
    header: dict[str, str]
    base_name: str


def save_adapter(model: nn.Module, folder: Path | str) -> Path:
    """Write the adapter that a model carries, and a classifier's head; nothing of the base model.

    Args:
        model: Model with a method applied.
        folder: Where to; made if missing. An earlier adapter is replaced.

    Raises:
        AdapterError: If the model carries no adapter, or it cannot be written.
    """
    folder, method = Path(folder), method_of(model)
    text = json.dumps(settings_of(model, method), indent=2)
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in adapter_tensors(model, method).items()
    }
    header = {
        "format": "pt",
        "course_utils_version": FORMAT_VERSION,
        "config_sha256": _sha256(text),
        "base_fingerprint": base_fingerprint(model),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            save_file(tensors, Path(partial, TENSORS_FILE), metadata=header)
            Path(partial, CONFIG_FILE).write_text(text, encoding="utf-8")
            for name in (TENSORS_FILE, CONFIG_FILE):
                os.replace(Path(partial, name), folder / name)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"the adapter was not written to {folder}: {error}") from error
    return folder


def load_adapter(model: nn.Module, folder: Path | str) -> nn.Module:
    """Put a stored adapter on its base model, in place, and return the model.

    All is checked before the model is touched.

    Args:
        model: Base model, without an adapter.
        folder: Folder written by ``save_adapter`` or by PEFT.

    Raises:
        AdapterError: If the folder holds no adapter, a damaged or foreign one, or one of another
            base model, or if the model carries an adapter already.
    """
    if carried_by(model):
        raise AdapterError("the model carries an adapter already: `remove` it first")
    stored = read_fitting_adapter(model, folder)
    try:
        apply(model, stored.method)
    except ValueError as error:
        raise AdapterError(f"{folder} does not fit this model: {error}") from error
    put_tensors(model, stored.tensors)
    return model


@torch.no_grad()
def put_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors of an adapter, by their names in a file, to their places in a model.

    A soft prompt's encoder is not stored: the tokens that it computed take its place.
    """
    method = model.fine_tuning_method
    if isinstance(method, SoftPromptConfig):
        drop_encoder(model)
    for name, place in adapter_tensors(model, method).items():
        place.copy_(tensors[name])


def read_fitting_adapter(model: nn.Module, folder: Path | str) -> StoredAdapter:
    """Read an adapter's folder, and check that it was made for a model's base.

    Raises:
        AdapterError: As for ``load_adapter``.
    """
    stored = read_adapter(folder)
    base = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
    names = [name for name in (stored.base_name, base) if name and not Path(name).exists()]
    fingerprint = stored.header.get("base_fingerprint")
    if fingerprint and not is_same_base(fingerprint, base_fingerprint(model)):
        raise AdapterError(f"{folder} was trained on another base model than this one")
    if not fingerprint and len(set(names)) > 1:
        raise AdapterError(f"{folder} was trained on {names[0]}, and this model is {names[1]}")
    stored = replace(stored, method=_with_exact_targets(model, stored))
    _check_shapes(model, stored, folder)
    return stored


def read_adapter(folder: Path | str) -> StoredAdapter:
    """Read an adapter's folder.

    Raises:
        AdapterError: If the folder holds no adapter, or a damaged or foreign one.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, TENSORS_FILE):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder} holds no adapter: {name} is missing")
    try:
        text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
        settings = json.loads(text)
        with safe_open(folder / TENSORS_FILE, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (ValueError, SafetensorError, OSError) as error:
        raise AdapterError(f"{folder} holds a damaged adapter: {error}") from error
    if not isinstance(settings, dict):
        raise AdapterError(f"{folder} holds a damaged configuration: {text[:40]!r} is no object")
    version = header.get("course_utils_version", "" if OWN_KEY in settings else FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise AdapterError(f"{folder} has version {version!r}; this course reads {FORMAT_VERSION}")
    if header.get("config_sha256", _sha256(text)) != _sha256(text):
        raise AdapterError(f"{folder} holds a damaged adapter: {CONFIG_FILE} was changed since")
    return StoredAdapter(
        method=method_from(settings, folder),
        tensors=tensors,
        header=header,
        base_name=settings.get("base_model_name_or_path") or "",
    )


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
    """Return the tensors of a model's adapter, and of its head, by their names in a file."""
    if isinstance(method, SoftPromptConfig):
        return {PROMPT: model.soft_prompt.encoder()} | head_tensors(model, PROMPT_PREFIX)
    layers = adapted_layers(model).items()
    if stacked := [name for name, layer in layers if len(getattr(layer, "adapters", ())) > 1]:
        raise AdapterError(f"{stacked[0]} has several adapters: save each before they are stacked")
    tensors = {
        f"{PREFIX}{name}.{theirs}": layer.get_parameter(ours)
        for name, layer in layers
        for ours, theirs in method.saved.items()
    }
    return tensors | head_tensors(model)


def head_tensors(model: nn.Module, prefix: str = PREFIX) -> dict[str, Tensor]:
    """Return the parameters of a classifier's heads, by their names in a file."""
    return {
        f"{prefix}{head}.{name}": parameter
        for head in classifier_heads(model)
        for name, parameter in model.get_submodule(head).named_parameters()
    }


def _with_exact_targets(model: nn.Module, stored: StoredAdapter) -> AdapterMethod:
    """Return the configuration with the layers that the file has tensors of.

    PEFT may have chosen them by a pattern, or left some out; the tensors say what it came to.
    """
    if not hasattr(stored.method, "target_modules"):
        return stored.method
    suffix = next(iter(stored.method.saved.values()))
    ends = f".{suffix}"
    found = {
        key.removeprefix(PREFIX).removesuffix(ends) for key in stored.tensors if key.endswith(ends)
    }
    try:
        meant = set(find_linear(model, stored.method.target_modules))
    except ValueError:
        meant = set()
    is_exact = found == meant or not found
    return (
        stored.method if is_exact else replace(stored.method, target_modules=tuple(sorted(found)))
    )


def _check_shapes(model: nn.Module, stored: StoredAdapter, folder: Path | str) -> None:
    """Compare an adapter's tensors with those that its configuration makes of the model."""
    try:
        expected = _expected_shapes(model, stored.method)
    except ValueError as error:
        raise AdapterError(f"{folder} does not fit this model: {error}") from error
    found = {name: tuple(tensor.shape) for name, tensor in stored.tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise AdapterError(
                f"{folder} does not fit this model: {name} is {found.get(name, 'missing')} "
                f"and should be {expected.get(name, 'absent')}"
            )


def _expected_shapes(model: nn.Module, method: AdapterMethod) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that an adapter of this model has in a file."""
    if isinstance(method, SoftPromptConfig):
        expected = {PROMPT: (method.num_virtual_tokens, method.token_width(model))}
        heads = head_tensors(model, PROMPT_PREFIX)
    else:
        expected = {
            f"{PREFIX}{name}.{method.saved[ours]}": shape
            for name, layer in method.layers_in(model).items()
            for ours, shape in method.tensor_shapes(*reversed(shape_of(layer))).items()
        }
        heads = head_tensors(model)
    return expected | {name: tuple(tensor.shape) for name, tensor in heads.items()}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
