"""Adapters on disk: in PEFT's own format where PEFT has the method, so that they travel both ways.

A folder holds adapter_config.json and adapter_model.safetensors (``file_pair``). What PEFT saves
loads here with equal logits, or is refused by the name of the option.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from course_utils.methods.layers import find_linear
from course_utils.methods.storage.file_pair import (
    CONFIG_FILE,
    TENSORS_FILE,
    AdapterError,
    read_pair,
    refuse_version,
    write_pair,
)
from course_utils.methods.storage.fingerprint import base_fingerprint, is_same_base
from course_utils.methods.storage.own_format import (
    OWN_KEY,
    from_own_config,
    is_only_here,
    to_own_config,
)
from course_utils.methods.storage.peft_format import (
    from_peft_config,
    is_computed_alike,
    is_here,
    to_peft_config,
)
from course_utils.methods.storage.state import (
    PREFIX,
    AdapterMethod,
    AdapterState,
    check_fits,
    put_on,
    state_of,
)
from course_utils.models.structure import carried_by, classifier_heads
from course_utils.validation import shown

__all__ = [
    "CONFIG_FILE",
    "TENSORS_FILE",
    "StoredAdapter",
    "load_adapter",
    "read_adapter",
    "read_fitting_adapter",
    "save_adapter",
]


@dataclass(frozen=True, kw_only=True)
class StoredAdapter:
    """An adapter as it lies on disk.

    Args:
        state: Its configuration and its tensors.
        base_fingerprint: Of its base model; None if the file is PEFT's.
        base_name: Name of the base model; empty if it is not said.
        trained_modules: Endings of the names of modules that are stored whole.
    """

    state: AdapterState
    base_fingerprint: str | None
    base_name: str
    trained_modules: tuple[str, ...]


def save_adapter(model: nn.Module, folder: Path | str) -> Path:
    """Write the adapter that a model carries, and a classifier's head; nothing of the base model.

    A program that is killed leaves the earlier adapter or this one.

    Args:
        model: Model with a method applied.
        folder: Where to; made if missing. An earlier adapter is replaced.

    Raises:
        AdapterError: If the model carries no adapter, or one with numbers that are not finite, or
            it cannot be written.
    """
    folder, state = _path(folder), state_of(model)
    if is_only_here(state.method) or not is_computed_alike(model, state.method):
        config = to_own_config(state.method, state.rank_in_use)
    else:
        config = to_peft_config(model, state.method)
    write_pair(folder, config, state.tensors, base_fingerprint(model))
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
    state = read_fitting_adapter(model, folder)
    try:
        put_on(model, state)
    except ValueError as error:
        raise AdapterError(f"{folder} does not fit this model: {error}") from error
    return model


def read_fitting_adapter(model: nn.Module, folder: Path | str) -> AdapterState:
    """Read an adapter's folder, and check that it was made for a model's base.

    Raises:
        AdapterError: As for ``load_adapter``.
    """
    stored = read_adapter(folder)
    _check_base(model, stored, folder)
    _check_trained_modules(model, stored, folder)
    state = replace(stored.state, method=_with_exact_targets(model, stored.state))
    try:
        check_fits(model, state)
        is_alike = stored.base_fingerprint is not None or is_computed_alike(model, state.method)
    except (ValueError, OverflowError) as error:  # the latter by sizes beyond all floats
        raise AdapterError(f"{folder} does not fit this model: {str(error)[:160]}") from error
    if not is_alike:
        raise AdapterError(
            f"{folder} uses a peft_type whose virtual tokens would stand, in PEFT, where "
            f"{type(model).__name__} reads a text's first token: that is not read here"
        )
    return state


def read_adapter(folder: Path | str) -> StoredAdapter:
    """Read an adapter's folder.

    Raises:
        AdapterError: If the folder holds no adapter, or a damaged or foreign one.
    """
    folder = _path(folder)
    pair, file, rank = read_pair(folder), folder / CONFIG_FILE, None
    if OWN_KEY not in pair.config:
        method = from_peft_config(pair.config, file)
    elif pair.version:
        method, rank = from_own_config(pair.config, file)
    else:
        refuse_version(folder, pair.version)
    return StoredAdapter(
        state=AdapterState(method=method, tensors=pair.tensors, rank_in_use=rank),
        base_fingerprint=pair.base_fingerprint,
        base_name=pair.config.get("base_model_name_or_path") or "",
        trained_modules=tuple(pair.config.get("modules_to_save") or ()),
    )


def _path(folder: Path | str) -> Path:
    if not isinstance(folder, Path | str):
        raise AdapterError(f"folder={shown(folder)} must be a path")
    return Path(folder)


def _check_base(model: nn.Module, stored: StoredAdapter, folder: Path | str) -> None:
    """Compare a model with an adapter's base: by samples of the weights, or else by name."""
    if stored.base_fingerprint is not None:
        try:
            is_same = is_same_base(stored.base_fingerprint, base_fingerprint(model))
        except ValueError as error:
            raise AdapterError(f"{folder} holds a damaged adapter: {error}") from error
        if not is_same:
            raise AdapterError(f"{folder} was trained on another base model than this one")
        return
    base = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
    names = [name for name in (stored.base_name, base) if name and not is_here(name)]
    if len(set(names)) > 1:
        theirs, ours = map(shown, names)
        raise AdapterError(f"{folder} was trained on {theirs}, and this model is {ours}")


def _check_trained_modules(model: nn.Module, stored: StoredAdapter, folder: Path | str) -> None:
    """Refuse modules that PEFT has trained whole, other than a classifier's heads."""
    heads = tuple(classifier_heads(model))
    for end in stored.trained_modules:
        for name, _ in model.named_modules():
            # PEFT compares so, without regard to where a part of a name begins.
            if name.endswith(end) and not f"{name}.".startswith(tuple(f"{h}." for h in heads)):
                raise AdapterError(
                    f"{folder} uses modules_to_save={shown(list(stored.trained_modules))}, of "
                    f"which {name} is no classifier's head and is not read here"
                )


def _with_exact_targets(model: nn.Module, state: AdapterState) -> AdapterMethod:
    """Return the configuration with the layers that the file has tensors of.

    PEFT may have chosen them by a pattern, or left some out; the tensors say what it came to.
    """
    method = state.method
    if not hasattr(method, "target_modules"):
        return method
    ends = "|".join(re.escape(name) for name in method.saved.values())
    keys = [re.fullmatch(rf"(.+)\.({ends}|lora_.+)", key) for key in state.tensors]
    found = {match[1].removeprefix(PREFIX) for match in keys if match}
    try:
        meant = set(find_linear(model, method.target_modules))
    except ValueError:
        meant = set()
    is_exact = found == meant or not found
    return method if is_exact else replace(method, target_modules=tuple(sorted(found)))
