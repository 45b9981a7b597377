"""Configurations in this course's own words: methods that PEFT does not have, or has otherwise."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.lora_xs import LoRAXSConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.storage.file_pair import AdapterError, cut
from course_utils.methods.tiny_lora import TinyLoRAConfig
from course_utils.validation import check_choice, check_count

OWN_KEY = "course_utils_method"
_RANK_IN_USE = "rank_in_use"
_ONLY_HERE = {
    "dylora": DyLoRAConfig,
    "nola": NOLAConfig,
    "lora_xs": LoRAXSConfig,
    "bottleneck": BottleneckConfig,
}
_METHODS = _ONLY_HERE | {
    "prompt_tuning": PromptTuningConfig,
    "p_tuning": PTuningConfig,
    "tiny_lora": TinyLoRAConfig,
}

OwnMethod = (
    DyLoRAConfig
    | NOLAConfig
    | LoRAXSConfig
    | BottleneckConfig
    | PromptTuningConfig
    | PTuningConfig
    | TinyLoRAConfig
)


def is_only_here(method: object) -> bool:
    """Say whether a method is one that PEFT does not have, or is stored as PEFT does not."""
    is_short = isinstance(method, TinyLoRAConfig) and not method.is_saved_whole
    return is_short or type(method) in _ONLY_HERE.values()


def to_own_config(method: OwnMethod, rank_in_use: int | None) -> dict[str, Any]:
    """Return what adapter_config.json says of a method.

    Args:
        method: Its configuration.
        rank_in_use: The rank that a DyLoRA is set to; None for other methods.
    """
    name = next(name for name, kind in _METHODS.items() if type(method) is kind)
    config = {OWN_KEY: name} | vars(method)
    return config if rank_in_use is None else config | {_RANK_IN_USE: rank_in_use}


def from_own_config(config: dict[str, Any], file: Path) -> tuple[OwnMethod, int | None]:
    """Return the method that adapter_config.json describes, and the rank in use of a DyLoRA.

    Args:
        config: What the file says.
        file: The file, for the message.

    Raises:
        AdapterError: If a value is missing, unknown, of the wrong type or out of range.
    """
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    try:
        check_choice(OWN_KEY, name := options.pop(OWN_KEY), _METHODS)
        kind, rank = _METHODS[name], options.pop(_RANK_IN_USE, None) if name == "dylora" else None
        known = {field.name for field in fields(kind)}
        if unknown := [option for option in options if option not in known]:
            raise ValueError(f"unexpected keyword argument '{cut(unknown[0])}'")
        if missing := sorted(known - options.keys()):
            raise ValueError(f"{missing[0]!r} is missing")
        method = kind(**options)
        check_count(_RANK_IN_USE, rank, at_most=getattr(method, "rank", None), is_none_ok=True)
    except ValueError as error:
        raise AdapterError(f"{file} holds a damaged configuration: {str(error)[:160]}") from error
    return method, rank
