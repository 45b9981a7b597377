"""What a run is: only the same run is taken up from its checkpoints.

That is its configuration, its method, what trains, the base that it started from and what it learns
from. Each is told in texts, so that a refusal can name what differs.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.files import sha256_of
from course_utils.models.structure import classifier_heads

Facts = dict[str, str]
Identity = dict[str, Facts]

METHOD, TRAINED, BASE, SETTINGS = "method", "trained parameters", "base model", "configuration"
OPTIMIZER, WEIGHTS = "optimizer", "weights"
# Of these, later versions of libraries may know more.
_OPEN = (BASE, OPTIMIZER)
# Of a larger tensor, so many elements at the least, evenly spread: a base of 8B takes a second.
_SAMPLE = 2**20
_DIGITS = 16
_METHODS = ("fine_tuning_method", "peft_config", "_peft_config")
# What a model's configuration says of files and versions, and not of what it computes.
_NOTES = ("transformers_version", "architectures", "dtype", "torch_dtype")
_MOST_CHARACTERS = 60


def identity_of(model: nn.Module, config: object, besides: Collection[str]) -> Identity:
    """Return what a model and a configuration say of a run; what it learns from is to be added.

    Args:
        model: Model, or actor, before anything of a checkpoint is put on it.
        config: Configuration of the run, a dataclass.
        besides: Its fields that may change from one part of a run to the next.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    configs: dict[int, tuple[str, Any]] = {}
    for name, module in model.named_modules():
        if hasattr(getattr(module, "config", None), "to_dict"):
            configs.setdefault(id(module.config), (name, module.config))
    base = {
        _joined(name, key): described(value)
        for name, notes in configs.values()
        for key, value in notes.to_dict().items()
        if key not in _NOTES and not key.startswith("_")
    }
    return {
        METHOD: _methods_on(model),
        TRAINED: {name: f"{_dtype(p)} {tuple(p.shape)}" for name, p in trained.items()},
        BASE: base | {WEIGHTS: base_fingerprint(model)},
        SETTINGS: {
            field.name: described(getattr(config, field.name))
            for field in fields(config)
            if field.name not in besides
        },
    }


def base_fingerprint(model: nn.Module) -> str:
    """Return a checksum of the weights that a run starts from and does not bring itself.

    What an adapter or a new head trains is left out: it starts at random, and a checkpoint has it.
    """
    own = [m for m in model.modules() if _is_adapter(m)]
    own += [m.get_submodule(h) for m in model.modules() for h in classifier_heads(m)]
    fresh = {id(p) for m in own for p in m.parameters() if p.requires_grad}
    passing = {
        _joined(name, key)
        for name, module in model.named_modules()
        for key in module._non_persistent_buffers_set
    }
    kept = [(n, p) for n, p in model.named_parameters() if id(p) not in fresh]
    kept += [(n, b) for n, b in model.named_buffers() if n not in passing]
    # Below an adapter, the base has a name of its own.
    named = [(name.replace(".base.", "."), tensor) for name, tensor in kept]
    parts = [f"{n} {_dtype(t)} {tuple(t.shape)} {_checksum(t)}" for n, t in named]
    return sha256_of("\n".join(parts))[:_DIGITS]


def facts_of_optimizers(optimizers: Sequence[torch.optim.Optimizer]) -> Facts:
    """Return what optimizers are before their first step."""
    facts = {}
    for i, optimizer in enumerate(optimizers):
        facts[f"{i}"] = type(optimizer).__name__
        for k, group in enumerate(optimizer.param_groups):
            known = group | {"params": len(group["params"])}
            facts |= {f"{i}.{k}.{name}": described(value) for name, value in known.items()}
    return facts


def digest(identity: Identity) -> str:
    """Return an identity in sixteen characters."""
    facts = [[part, sorted(facts.items())] for part, facts in sorted(identity.items())]
    return sha256_of(repr(facts))[:_DIGITS]


def is_identity(value: object) -> bool:
    """Say whether a value from a file can be an identity."""
    return isinstance(value, dict) and all(
        isinstance(part, str)
        and isinstance(facts, dict)
        and all(isinstance(text, str) for pair in facts.items() for text in pair)
        for part, facts in value.items()
    )


def check_same_run(folder: Path, theirs: Identity, ours: Identity) -> None:
    """Refuse to take up another run.

    Args:
        folder: Where the checkpoints are.
        theirs: Identity of the run in them.
        ours: Identity of the run that is to go on.

    Raises:
        ValueError: If they differ; the message names what differs.
    """
    differing = {part: _first_difference(part, theirs, ours) for part in ours}
    differing = {part: text for part, text in differing.items() if text}
    if len(differing) > 1:
        differing.pop(OPTIMIZER, None)  # it follows from the others
    if differing:
        names = " and ".join(f"{'other' if p[-1] == 's' else 'another'} {p}" for p in differing)
        raise ValueError(
            f"{folder} holds a run with {names} ({next(iter(differing.values()))}): "
            "choose another checkpoint_dir or delete it"
        )


def described(value: object) -> str:
    """Return a value as a text that is the same in every process."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return repr(value)
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return str(int(value) if float(value).is_integer() else float(value))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{described(k)}: {described(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(described(part) for part in value)})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(described(part) for part in value))}}}"
    if isinstance(value, os.PathLike | torch.dtype | torch.device):
        return str(value)
    if is_dataclass(value):
        parts = (f"{f.name}={described(getattr(value, f.name, None))}" for f in fields(value))
        return f"{type(value).__name__}({', '.join(parts)})"
    return type(value).__name__


def _methods_on(model: nn.Module) -> Facts:
    """Return what the configurations of methods say that lie on a model, ours and PEFT's."""
    facts = {}
    for name, module in model.named_modules():
        for attribute in _METHODS:
            methods = vars(module).get(attribute)
            for method in methods.values() if isinstance(methods, Mapping) else (methods,):
                if method is not None:
                    facts[_joined(name, "type")] = type(method).__name__
                for field in fields(method) if is_dataclass(method) else ():
                    value = described(getattr(method, field.name, None))
                    facts[_joined(name, field.name)] = value
    return facts


def _first_difference(part: str, theirs: Identity, ours: Identity) -> str:
    """Return the first fact of a part that differs, as a text; empty if none does."""
    there, here = theirs.get(part, {}), ours[part]
    keys = here.keys() & there.keys() if part in _OPEN and there else here.keys() | there.keys()
    for key in sorted(keys, key=lambda key: (not key.endswith("type"), key)):
        if there.get(key) != here.get(key):
            pair = [_cut(facts.get(key)) for facts in (there, here)]
            return f"{key}={pair[0]} there, {pair[1]} here"
    return ""


def _cut(text: str | None) -> str:
    text = "none" if text is None else text
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."


def _is_adapter(module: nn.Module) -> bool:
    is_of_peft = type(module).__module__.partition(".")[0] == "peft"
    return is_of_peft or getattr(module, "is_adapter", False)


def _joined(*names: str) -> str:
    return ".".join(name for name in names if name)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _checksum(tensor: Tensor) -> str:
    flat = tensor.detach().flatten()
    some = flat[:: max(1, len(flat) // _SAMPLE)].contiguous().view(torch.uint8)
    return sha256_of(some.cpu().numpy().tobytes())
