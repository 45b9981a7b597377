"""Adapters on disk: in PEFT's own format where PEFT has the method, so that they travel both ways.

A folder holds adapter_config.json and adapter_model.safetensors. The tensors' header also says
which base model they were trained on, so that a wrong one is noticed.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_utils.methods.base import apply
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.linear import (
    HEADS,
    adapted_layers,
    classifier_heads,
    find_linear,
    is_transposed,
    weight_of,
)
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.nola import NOLAConfig

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
FORMAT_VERSION = "1"
_PREFIX = "base_model.model."
# Methods that PEFT does not have; their files say so under this key.
_OWN_KEY = "course_utils_method"
_OWN = {"dylora": DyLoRAConfig, "nola": NOLAConfig}

AdapterMethod = LoRAConfig | NOLAConfig


class AdapterError(ValueError):
    """An adapter cannot be written, or read, or put on this model."""


@dataclass(frozen=True, kw_only=True)
class StoredAdapter:
    """An adapter as it lies on disk.

    Args:
        method: Its configuration.
        tensors: Its tensors by their names in the file.
        header: What the tensors' header says of them.
    """

    method: AdapterMethod
    tensors: dict[str, Tensor]
    header: dict[str, str]


def save_adapter(model: nn.Module, folder: Path | str) -> Path:
    """Write the adapter that a model carries, and nothing of the base model.

    Args:
        model: Model with a method applied, and at most one adapter.
        folder: Where to; made if missing. Files of an earlier adapter are replaced, or left whole
            where writing fails.

    Raises:
        AdapterError: If the model carries no adapter, or it cannot be written.
    """
    folder, method = Path(folder), method_of(model)
    heads = classifier_heads(model)
    tensors = {name: tensor.detach().cpu().contiguous().clone()
               for name, tensor in adapter_tensors(model, method).items()}  # fmt: skip
    header = {"format": "pt", "course_utils_version": FORMAT_VERSION,
              "base_fingerprint": base_fingerprint(model)}  # fmt: skip
    own = next((name for name, kind in _OWN.items() if type(method) is kind), None)
    settings = {_OWN_KEY: own} | asdict(method) if own else _peft_settings(model, method, heads)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            save_file(tensors, Path(partial, TENSORS_FILE), metadata=header)
            Path(partial, CONFIG_FILE).write_text(json.dumps(settings, indent=2), encoding="utf-8")
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
            base model.
    """
    stored = read_adapter(folder)
    expected = stored.header.get("base_fingerprint")
    if expected and expected != base_fingerprint(model):
        raise AdapterError(f"{folder} was trained on another base model than this one")
    _check_fit(model, stored, folder)
    apply(model, stored.method)
    put_tensors(model, stored.method, stored.tensors)
    return model


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
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        with safe_open(folder / TENSORS_FILE, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (ValueError, SafetensorError, OSError) as error:
        raise AdapterError(f"{folder} holds a damaged adapter: {error}") from error
    version = header.get("course_utils_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise AdapterError(f"{folder} has version {version!r}; this course reads {FORMAT_VERSION}")
    return StoredAdapter(method=_method_from(settings, folder), tensors=tensors, header=header)


def method_of(model: nn.Module) -> AdapterMethod:
    """Return the configuration of the adapter that a model carries.

    Raises:
        AdapterError: If it carries none.
    """
    method = getattr(model, "fine_tuning_method", None)
    if not isinstance(method, AdapterMethod) or not adapted_layers(model):
        raise AdapterError(f"{type(model).__name__} carries no adapter: `apply` a method first")
    return method


def adapter_tensors(model: nn.Module, method: AdapterMethod) -> dict[str, Tensor]:
    """Return the tensors of a model's adapter by their names in a file."""
    tensors = {
        f"{_PREFIX}{name}.{theirs}": getattr(layer, ours)
        for name, layer in adapted_layers(model).items()
        for ours, theirs in method.saved.items()
    }
    for head in classifier_heads(model):
        for name, parameter in model.get_submodule(head).named_parameters():
            tensors[f"{_PREFIX}{head}.{name}"] = parameter
    return tensors


def put_tensors(model: nn.Module, method: AdapterMethod, tensors: dict[str, Tensor]) -> None:
    """Copy stored tensors into the adapter that a model carries."""
    with torch.no_grad():
        for name, place in adapter_tensors(model, method).items():
            if name in tensors:
                place.copy_(tensors[name])


def base_fingerprint(model: nn.Module) -> str:
    """Return a checksum of the base model's input embedding, which adapters leave alone."""
    embedding = model.get_input_embeddings().weight.detach()
    first = embedding[:64].float().cpu().contiguous()
    return hashlib.sha256(
        f"{tuple(embedding.shape)}".encode() + first.numpy().tobytes()
    ).hexdigest()


def _check_fit(model: nn.Module, stored: StoredAdapter, folder: Path | str) -> None:
    """Compare an adapter's tensors with those that its configuration makes of the model."""
    method = stored.method
    try:
        targets = find_linear(model, method.target_modules)
    except ValueError as error:
        raise AdapterError(f"{folder} does not fit this model: {error}") from error
    expected = {}
    for name, layer in targets.items():
        d_out, d_in = weight_of(layer).shape
        shapes = method.tensor_shapes(d_in, d_out)
        for ours, theirs in method.saved.items():
            expected[f"{_PREFIX}{name}.{theirs}"] = shapes[ours]
    heads = tuple(f"{_PREFIX}{head}." for head in HEADS)
    found = {
        name: tuple(tensor.shape) for name, tensor in stored.tensors.items()
        if not name.startswith(heads)
    }  # fmt: skip
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise AdapterError(
                f"{folder} does not fit this model: {name} is {found.get(name, 'missing')} "
                f"and should be {expected.get(name, 'absent')}"
            )


def _peft_settings(model: nn.Module, method: AdapterMethod, heads: list[str]) -> dict[str, Any]:
    """Return adapter_config.json as PEFT writes it."""
    layers = adapted_layers(model)
    last = {name.rpartition(".")[2] for name in layers}
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if heads else "CAUSAL_LM",
        # A folder of this machine means nothing elsewhere, and is nobody's business.
        "base_model_name_or_path": None if not name or Path(name).exists() else name,
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.use_rslora,
        "use_dora": isinstance(method, DoRAConfig),
        "target_modules": sorted(last) if method.target_modules == "all-linear"
        else list(method.target_modules),
        "modules_to_save": heads or None,
        "fan_in_fan_out": any(is_transposed(layer.base) for layer in layers.values()),
        "bias": "none",
        "inference_mode": True,
    }  # fmt: skip


_UNREAD = ("rank_pattern", "alpha_pattern", "layers_to_transform", "loftq_config", "lora_bias",
           "use_qalora", "target_parameters")  # fmt: skip


def _method_from(settings: dict[str, Any], folder: Path) -> AdapterMethod:
    """Return the configuration that adapter_config.json describes."""
    if _OWN_KEY in settings:
        return _own_method_from(settings, folder)
    if settings.get("peft_type") != "LORA":
        raise AdapterError(
            f"{folder} holds an adapter of type {settings.get('peft_type')!r}; LORA can be read"
        )
    if used := [name for name in _UNREAD if settings.get(name)]:
        raise AdapterError(f"{folder} uses {used[0]}={settings[used[0]]!r}, which is not read here")
    targets = settings.get("target_modules")
    is_list = isinstance(targets, list)
    kind = DoRAConfig if settings.get("use_dora") else LoRAConfig
    try:
        return kind(
            rank=settings["r"], alpha=settings["lora_alpha"],
            dropout=settings.get("lora_dropout", 0.0),
            target_modules=tuple(targets) if is_list else targets,
            use_rslora=settings.get("use_rslora", False),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{folder} holds a damaged configuration: {error}") from error


def _own_method_from(settings: dict[str, Any], folder: Path) -> AdapterMethod:
    """Return the configuration of a method that PEFT does not have."""
    options = {name: value for name, value in settings.items() if name != _OWN_KEY}
    kind = _OWN.get(settings[_OWN_KEY])
    if kind is None:
        known = ", ".join(_OWN)
        raise AdapterError(f"{folder} holds {settings[_OWN_KEY]!r}, which must be one of {known}")
    if isinstance(options.get("target_modules"), list):
        options["target_modules"] = tuple(options["target_modules"])
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise AdapterError(f"{folder} holds a damaged configuration: {error}") from error
