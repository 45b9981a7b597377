"""PEFT's configuration of an adapter, as its adapter_config.json has it, from ours and back.

An option is read, or it says nothing of the trained adapter, or it must not be in use: what this
module does not know, of whatever version of PEFT, is refused by its name.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_utils.methods.dora import DoRAConfig
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.storage.file_pair import AdapterError, cut
from course_utils.methods.tiny_lora import TinyLoRAConfig
from course_utils.methods.virtual_tokens import SoftPromptConfig
from course_utils.models.structure import (
    classifier_heads,
    evaluating,
    is_transposed,
    one_token,
    trunk_of,
)
from course_utils.validation import (
    check_choice,
    check_count,
    check_flag,
    check_names,
    check_number,
    check_text,
    shown,
)

PeftMethod = LoRAConfig | TinyLoRAConfig | SoftPromptConfig
Check = Callable[[str, object], None]

_LONGEST_TEXT = 4096


def _check_text(name: str, value: object) -> None:
    """Check a text that may be left out."""
    if value is not None:
        check_text(name, value)
        if len(value) > _LONGEST_TEXT:
            raise ValueError(f"{name}={shown(value)} must have at most {_LONGEST_TEXT} letters")


def _check_names(name: str, value: object) -> None:
    """Check names, or the pattern of names, that may be left out."""
    if isinstance(value, str):
        _check_text(name, value)
    else:
        _check_list(name, value)


def _check_list(name: str, value: object) -> None:
    """Check names that may be left out."""
    if value is not None and value != []:
        check_names(name, value)


def _check_places(name: str, value: object) -> None:
    """Check one number of a layer, or several, that may be left out."""
    for place in value if isinstance(value, list) else [value]:
        check_count(name, place, at_least=0, is_none_ok=value is None)


def _anything(name: str, value: object) -> None:
    """Check nothing: the option is over once the adapter is trained."""


_check_optional_count = partial(check_count, is_none_ok=True)
_check_share = partial(check_number, at_least=0, below=1)

# What is read, or harmless, and how it must look.
_OF_ALL: dict[str, Check] = {
    "peft_type": check_text,
    "task_type": _check_text,
    "base_model_name_or_path": _check_text,
    "revision": _check_text,
    "peft_version": _check_text,
    "auto_mapping": _anything,
    "inference_mode": check_flag,
    "modules_to_save": _check_list,
}
_OF_LORA: dict[str, Check] = _OF_ALL | {
    "r": check_count,
    "lora_alpha": partial(check_number, above=0),
    "lora_dropout": _check_share,
    "use_rslora": check_flag,
    "use_dora": check_flag,
    "fan_in_fan_out": check_flag,
    # Which layers are adapted the tensors tell, however they were chosen.
    "target_modules": _check_names,
    "exclude_modules": _check_names,
    "layers_to_transform": _check_places,
    "layers_pattern": _check_names,
    # How the adapter started, and details of options that are off.
    "eva_config": _anything,
    "qalora_group_size": _anything,
    "megatron_core": _anything,
}
_OF_TINY_LORA: dict[str, Check] = _OF_ALL | {
    "r": check_count,
    "u": check_count,
    "weight_tying": partial(check_number, at_least=0, at_most=1),
    "projection_seed": partial(check_count, at_least=0),
    "tinylora_dropout": _check_share,
    "fan_in_fan_out": check_flag,
    "target_modules": _check_names,
    "exclude_modules": _check_names,
    "layers_to_transform": _check_places,
    "layers_pattern": _check_names,
    # How the vectors started.
    "init_weights": _anything,
    "init_v_bound": _anything,
}
_OF_PROMPTS: dict[str, Check] = _OF_ALL | {
    "num_virtual_tokens": check_count,
    "token_dim": _check_optional_count,
    "num_attention_heads": _check_optional_count,
    "num_layers": _check_optional_count,
}
_CHECKS: dict[str, dict[str, Check]] = {
    "LORA": _OF_LORA,
    "TINYLORA": _OF_TINY_LORA,
    "PROMPT_TUNING": _OF_PROMPTS
    | {
        "prompt_tuning_init": partial(check_choice, known=("RANDOM", "TEXT", "SAMPLE_VOCAB")),
        "prompt_tuning_init_text": _check_text,
        "tokenizer_name_or_path": _check_text,
        "tokenizer_kwargs": _anything,
    },
    "P_TUNING": _OF_PROMPTS
    | {
        "encoder_reparameterization_type": partial(check_choice, known=("MLP", "LSTM")),
        "encoder_hidden_size": _check_optional_count,
        "encoder_num_layers": check_count,
        "encoder_dropout": _check_share,
    },
    "PREFIX_TUNING": _OF_PROMPTS
    | {
        "prefix_projection": check_flag,
        "encoder_hidden_size": _check_optional_count,
    },
}
_REQUIRED = {
    "LORA": ("r", "lora_alpha", "target_modules"),
    "TINYLORA": ("r", "u", "weight_tying", "target_modules"),
    "PROMPT_TUNING": ("num_virtual_tokens",),
    "P_TUNING": (
        "num_virtual_tokens",
        "encoder_reparameterization_type",
        "encoder_num_layers",
        "encoder_dropout",
    ),
    "PREFIX_TUNING": ("num_virtual_tokens", "prefix_projection"),
}
# Tasks for which PEFT has a model of its own, by a part of the model's class.
_TASKS = {
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
    "QuestionAnswering": "QUESTION_ANS",
    "CausalLM": "CAUSAL_LM",
    "LMHead": "CAUSAL_LM",
}
_OTHER_TASK = "FEATURE_EXTRACTION"
# Options with values that are read; other values of theirs are not. The starts are those that leave
# the base as it is, which PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA do not.
_READ_VALUES: dict[str, tuple] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
    "init_weights": (None, "zero"),
    "save_projection": (True,),
    "num_transformer_submodules": (None, 1),
}


def to_peft_config(model: nn.Module, method: PeftMethod) -> dict[str, Any]:
    """Return what PEFT's adapter_config.json says of the adapter that a model carries.

    Args:
        model: The model.
        method: The adapter's configuration.
    """
    of_method = _to_prompt if isinstance(method, SoftPromptConfig) else _to_lora
    of_method = _to_tiny_lora if isinstance(method, TinyLoRAConfig) else of_method
    heads = classifier_heads(model)
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    tasks = [task for part, task in _TASKS.items() if part in type(model).__name__]
    return {
        "task_type": tasks[0] if tasks else _OTHER_TASK,
        # A folder of this machine means nothing elsewhere, and is nobody's business.
        "base_model_name_or_path": None if not name or is_here(name) else name,
        "modules_to_save": heads or None,
        "inference_mode": True,
    } | of_method(model, method)


def from_peft_config(config: Mapping[str, Any], file: Path) -> PeftMethod:
    """Return the method that PEFT's adapter_config.json describes.

    Args:
        config: What the file says.
        file: The file, for the message.

    Raises:
        AdapterError: If a value is missing, of the wrong type or out of range, or if an option is
            in use that is not read here.
    """
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in _CHECKS:
        known = ", ".join(_CHECKS)
        raise AdapterError(f"{file} holds an adapter of type {shown(kind)}; {known} can be read")
    for name, value in config.items():
        if not _is_read(name, value, _CHECKS[kind]):
            raise AdapterError(f"{file} uses {cut(name)}={shown(value)}, which is not read here")
    try:
        for name in _REQUIRED[kind]:
            if name not in config:
                raise ValueError(f"{name!r} is missing")
        for name, check in _CHECKS[kind].items():
            if name in config:
                check(name, config[name])
        if kind == "TINYLORA":
            return _from_tiny_lora(config)
        return _from_lora(config) if kind == "LORA" else _from_prompt(kind, config)
    except ValueError as error:
        raise AdapterError(f"{file} holds a damaged configuration: {str(error)[:160]}") from error


def is_computed_alike(model: nn.Module, method: PeftMethod) -> bool:
    """Say whether PEFT computes what this course does.

    It does not where a classifier of texts that reads in both directions takes a text's first
    place for the whole, as BERT's: in PEFT that is a virtual token's, and here still the text's.
    """
    is_in_text = isinstance(method, PromptTuningConfig | PTuningConfig)
    is_per_token = any(part in type(model).__name__ for part in ("Token", "QuestionAnswering"))
    if not is_in_text or is_per_token or not classifier_heads(model):
        return True
    text = torch.cat([one_token(model), 2 * one_token(model)], dim=1)
    with evaluating(model), torch.no_grad():
        alone, followed = (trunk_of(model)(input_ids=text[:, :n])[0][0, 0] for n in (1, 2))
    return torch.allclose(alone, followed, atol=1e-5)


def is_here(name: str) -> bool:
    """Say whether a base model's name is a folder of this machine."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # no name that a folder could have
        return False


def _is_read(name: str, value: object, checks: Mapping[str, Check]) -> bool:
    """Say whether an option is read, or off."""
    if name in _READ_VALUES and name not in checks:
        return any(type(value) is type(v) and value == v for v in _READ_VALUES[name])
    return name in checks or value is None or value is False or value in ("", [], {})


def _to_lora(model: nn.Module, method: LoRAConfig) -> dict[str, Any]:
    """Return what PEFT writes of LoRA and DoRA."""
    return {
        "peft_type": "LORA",
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.use_rslora,
        "use_dora": isinstance(method, DoRAConfig),
    } | _to_targets(model, method)


def _to_tiny_lora(model: nn.Module, method: TinyLoRAConfig) -> dict[str, Any]:
    """Return what PEFT writes of TinyLoRA."""
    return {
        "peft_type": "TINYLORA",
        "r": method.rank,
        "u": method.n_numbers,
        "weight_tying": method.weight_tying,
        "projection_seed": method.seed,
        "save_projection": True,
        "tinylora_dropout": method.dropout,
    } | _to_targets(model, method)


def _to_targets(model: nn.Module, method: LoRAConfig | TinyLoRAConfig) -> dict[str, Any]:
    """Return what PEFT writes of the layers that carry an adapter."""
    layers = adapted_layers(model)
    is_all = method.target_modules == "all-linear"
    last = sorted({name.rpartition(".")[2] for name in layers})
    return {
        "target_modules": last if is_all else list(method.target_modules),
        "fan_in_fan_out": any(is_transposed(layer.base) for layer in layers.values()),
        "bias": "none",
    }


def _to_prompt(model: nn.Module, method: SoftPromptConfig) -> dict[str, Any]:
    """Return what PEFT writes of a soft prompt; how it started and was trained is over by then."""
    prompt, config = model.soft_prompt, model.config
    settings = {
        "num_virtual_tokens": method.num_virtual_tokens,
        "num_transformer_submodules": 1,
        "num_layers": config.num_hidden_layers,
        "token_dim": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
    }
    if isinstance(method, PromptTuningConfig):
        return settings | {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM"}
    if isinstance(method, PTuningConfig):
        return settings | {
            "peft_type": "P_TUNING",
            "encoder_reparameterization_type": method.encoder.upper(),
            "encoder_hidden_size": method.hidden_size or config.hidden_size,
            "encoder_num_layers": method.num_layers if method.encoder == "lstm" else 2,
            "encoder_dropout": method.dropout,
        }
    kv_width = prompt.n_kv_heads * prompt.head_dim
    return settings | {
        "peft_type": "PREFIX_TUNING",
        "token_dim": kv_width,
        "num_attention_heads": prompt.n_kv_heads,
        "prefix_projection": method.projection,
        "encoder_hidden_size": method.hidden_size or kv_width,
    }


def _from_lora(config: Mapping[str, Any]) -> LoRAConfig:
    """Return LoRA or DoRA as PEFT or this course has written it."""
    targets = config["target_modules"]
    return (DoRAConfig if config.get("use_dora", False) else LoRAConfig)(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout", 0.0),
        target_modules=tuple(targets) if isinstance(targets, list) else "all-linear",
        use_rslora=config.get("use_rslora", False),
    )


def _from_tiny_lora(config: Mapping[str, Any]) -> TinyLoRAConfig:
    """Return TinyLoRA as PEFT or this course has written it."""
    targets = config["target_modules"]
    return TinyLoRAConfig(
        rank=config["r"],
        n_numbers=config["u"],
        weight_tying=config["weight_tying"],
        dropout=config.get("tinylora_dropout", 0.0),
        target_modules=tuple(targets) if isinstance(targets, list) else "all-linear",
        seed=config.get("projection_seed", 42),
    )


def _from_prompt(kind: str, config: Mapping[str, Any]) -> SoftPromptConfig:
    """Return a soft prompt as PEFT or this course has written it."""
    n, hidden_size = config["num_virtual_tokens"], config.get("encoder_hidden_size")
    if kind == "PROMPT_TUNING":
        return PromptTuningConfig(num_virtual_tokens=n, init="random")
    if kind == "P_TUNING":
        return PTuningConfig(
            num_virtual_tokens=n,
            hidden_size=hidden_size,
            encoder=config["encoder_reparameterization_type"].lower(),
            num_layers=config["encoder_num_layers"],
            dropout=config["encoder_dropout"],
        )
    return PrefixTuningConfig(
        num_virtual_tokens=n, projection=config["prefix_projection"], hidden_size=hidden_size
    )
