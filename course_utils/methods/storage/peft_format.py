"""adapter_config.json: a method's configuration as PEFT writes it, and back.

Methods that PEFT does not have are written in our own words.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.virtual_tokens import SoftPromptConfig
from course_utils.models.structure import classifier_heads, is_transposed

# Methods that PEFT does not have; their files say so under this key.
OWN_KEY = "course_utils_method"
_OWN = {"dylora": DyLoRAConfig, "nola": NOLAConfig, "bottleneck": BottleneckConfig}
_PROMPTS = {
    "PROMPT_TUNING": PromptTuningConfig,
    "P_TUNING": PTuningConfig,
    "PREFIX_TUNING": PrefixTuningConfig,
}
# PEFT's options that change the computation in ways that are not read here.
_UNREAD = (
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "alora_invocation_tokens",
    "lora_bias",
    "use_qalora",
    "target_parameters",
    "trainable_token_indices",
    "arrow_config",
)
# Ways to start that leave the base as it is; others (PiSSA, OLoRA, LoftQ) change it as well.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva")

AdapterMethod = LoRAConfig | NOLAConfig | BottleneckConfig | SoftPromptConfig


class AdapterError(ValueError):
    """An adapter cannot be written, or read, or put on this model."""


def settings_of(model: nn.Module, method: AdapterMethod) -> dict[str, Any]:
    """Return what adapter_config.json says of the adapter that a model carries."""
    own = next((name for name, kind in _OWN.items() if type(method) is kind), None)
    if own:
        return {OWN_KEY: own} | asdict(method)
    of_method = _prompt_settings if isinstance(method, SoftPromptConfig) else _lora_settings
    heads = classifier_heads(model)
    is_per_token = "TokenClassification" in type(model).__name__
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    return {
        "task_type": ("TOKEN_CLS" if is_per_token else "SEQ_CLS") if heads else "CAUSAL_LM",
        # A folder of this machine means nothing elsewhere, and is nobody's business.
        "base_model_name_or_path": None if not name or Path(name).exists() else name,
        "modules_to_save": heads or None,
        "inference_mode": True,
    } | of_method(model, method)


def _lora_settings(model: nn.Module, method: LoRAConfig) -> dict[str, Any]:
    """Return what PEFT writes of LoRA and DoRA."""
    layers = adapted_layers(model)
    is_all = method.target_modules == "all-linear"
    last = sorted({name.rpartition(".")[2] for name in layers})
    return {
        "peft_type": "LORA",
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.use_rslora,
        "use_dora": isinstance(method, DoRAConfig),
        "target_modules": last if is_all else list(method.target_modules),
        "fan_in_fan_out": any(is_transposed(layer.base) for layer in layers.values()),
        "bias": "none",
    }


def _prompt_settings(model: nn.Module, method: SoftPromptConfig) -> dict[str, Any]:
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


def method_from(settings: dict[str, Any], folder: Path) -> AdapterMethod:
    """Return the configuration that adapter_config.json describes.

    Raises:
        AdapterError: If it describes none, or one that is not read here.
    """
    try:
        if OWN_KEY in settings:
            return _own_method_from(settings, folder)
        if settings.get("peft_type") in _PROMPTS:
            return _prompt_from(settings)
        _check_readable(settings, folder)
        targets = settings["target_modules"]
        return (DoRAConfig if settings.get("use_dora") else LoRAConfig)(
            rank=settings["r"],
            alpha=settings["lora_alpha"],
            dropout=settings.get("lora_dropout", 0.0),
            target_modules=tuple(targets) if isinstance(targets, list) else "all-linear",
            use_rslora=settings.get("use_rslora", False),
        )
    except AdapterError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{folder} holds a damaged configuration: {error}") from error


def _own_method_from(settings: dict[str, Any], folder: Path) -> AdapterMethod:
    """Return the configuration of a method that PEFT does not have."""
    options = {name: value for name, value in settings.items() if name != OWN_KEY}
    if settings[OWN_KEY] not in _OWN:
        known = ", ".join(_OWN)
        raise AdapterError(f"{folder} holds {settings[OWN_KEY]!r}, which must be one of {known}")
    if isinstance(options.get("target_modules"), list):
        options["target_modules"] = tuple(options["target_modules"])
    return _OWN[settings[OWN_KEY]](**options)


def _prompt_from(settings: dict[str, Any]) -> SoftPromptConfig:
    """Return the configuration of a soft prompt that PEFT or this course has written."""
    n, hidden_size = settings["num_virtual_tokens"], settings.get("encoder_hidden_size")
    kind = _PROMPTS[settings["peft_type"]]
    if kind is PromptTuningConfig:
        return kind(num_virtual_tokens=n, init="random")
    if kind is PTuningConfig:
        return kind(
            num_virtual_tokens=n,
            hidden_size=hidden_size,
            encoder=settings["encoder_reparameterization_type"].lower(),
            num_layers=settings["encoder_num_layers"],
            dropout=settings["encoder_dropout"],
        )
    return kind(
        num_virtual_tokens=n, projection=settings["prefix_projection"], hidden_size=hidden_size
    )


def _check_readable(settings: dict[str, Any], folder: Path) -> None:
    """Refuse what PEFT can do and this course does not read."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise AdapterError(
            f"{folder} holds an adapter of type {kind!r}; LORA, {', '.join(_PROMPTS)} can be read"
        )
    unread = {name: settings[name] for name in _UNREAD if settings.get(name)}
    if settings.get("bias", "none") != "none":
        unread["bias"] = settings["bias"]
    start = settings.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        unread["init_lora_weights"] = start
    for name, value in unread.items():
        raise AdapterError(f"{folder} uses {name}={value!r}, which is not read here")
