"""What a checkpoint must hold before any of it reaches a model.

A checksum tells what was damaged; whether somebody wrote something else and a checksum to it, only
the contents tell. Each function says what is wrong, or returns None.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor, nn

_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_OF_PARAMETERS_SHAPE = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}


def is_finite_number(value: object) -> bool:
    """Say whether a value is a finite number, or a tensor of one."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and _is_sound(value)
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def damage_of_keys(state: Mapping, kinds: Mapping[str, type | tuple[type, ...]]) -> str | None:
    """Say which of some names is missing, or stands for a value of another type."""
    for name, kind in kinds.items():
        if name not in state:
            return f"{name} is missing"
        if not isinstance(state[name], kind) or isinstance(state[name], bool):
            return f"{name} is of type {type(state[name]).__name__}"
    return None


def damage_of_weights(weights: Sequence, trained: Mapping[str, nn.Parameter]) -> str | None:
    """Say what keeps saved weights from being those of some parameters, in this order."""
    if len(weights) != len(trained):
        return f"{len(weights)} weights are saved for {len(trained)} parameters"
    for saved, (name, parameter) in zip(weights, trained.items(), strict=True):
        if not isinstance(saved, Tensor):
            return f"the weight of {name} is no tensor"
        if (saved.shape, saved.dtype) != (parameter.shape, parameter.dtype):
            return f"the weight of {name} has another shape or type"
        if not _is_sound(saved):
            return f"the weight of {name} is not finite"
    return None


def damage_of_optimizer(saved: object, optimizer: torch.optim.Optimizer) -> str | None:
    """Say what keeps a saved state from being that of an optimizer."""
    own = optimizer.state_dict()
    if not isinstance(saved, dict) or saved.keys() != own.keys():
        return "the optimizer's state has other names"
    groups, states = saved["param_groups"], saved["state"]
    if not isinstance(groups, list) or not isinstance(states, dict):
        return "the optimizer's state is of another type"
    if len(groups) != len(own["param_groups"]):
        return "the optimizer has other groups"
    for group, expected in zip(groups, own["param_groups"], strict=True):
        if not isinstance(group, dict) or not {"lr", "params"} <= group.keys() <= expected.keys():
            return "an optimizer's group has other names"
        others = {name: value for name, value in group.items() if name != "lr"}
        if any(isinstance(v, Tensor) or v != expected[name] for name, v in others.items()):
            return "an optimizer's group has other values"
        if not is_finite_number(group["lr"]):
            return "an optimizer's learning rate is not finite"
    required = _ADAM if isinstance(optimizer, torch.optim.Adam) else set()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, moments in states.items():
        if number not in range(len(parameters)) or not isinstance(moments, dict):
            return "the optimizer's state is of another parameter"
        if not required <= moments.keys():
            return "the optimizer's state is not complete"
        for name, value in moments.items():
            if not _is_moment(name, value, parameters[number]):
                return f"the optimizer's {str(name)[:40]} is not finite, or of another shape"
    return None


def _is_moment(name: str, value: object, parameter: nn.Parameter) -> bool:
    """Say whether a value can be what an optimizer knows of a parameter."""
    if not isinstance(value, Tensor):
        return value is None or is_finite_number(value)
    has_shape = name not in _OF_PARAMETERS_SHAPE or value.shape == parameter.shape
    return has_shape and _is_sound(value)


def damage_of_numbers(values: object, count: int, *, is_finite: bool = True) -> str | None:
    """Say what keeps a value from being a list of so many numbers."""
    if not isinstance(values, list) or len(values) != count:
        return f"the history is not of {count} steps"
    if not all(is_finite_number(x) or (not is_finite and isinstance(x, float)) for x in values):
        return "a number is not finite"
    return None


def damage_of_generator(state: object, device: torch.device | str = "cpu") -> str | None:
    """Say what keeps a value from being the state of a device's random generator."""
    if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.ndim != 1:
        return "the random state is no row of bytes"
    try:
        torch.Generator(device).set_state(state.clone())
    except (RuntimeError, TypeError):
        return "the random state is damaged"
    return None


def damage_of_scaler(saved: Mapping, scaler: torch.amp.GradScaler) -> str | None:
    """Say what keeps a saved state from being that of a loss's scaler."""
    is_right = saved.keys() == scaler.state_dict().keys()
    if not is_right or not all(is_finite_number(value) for value in saved.values()):
        return "the state of the loss's scaler is damaged"
    return None


def _is_sound(tensor: Tensor) -> bool:
    """Say whether a tensor is as large as its storage lets it be, and finite."""
    # One element that is repeated without end takes no room on the disk, and all there is here.
    if tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
        return False
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
