"""Shapes of dense decoder-only transformers, and the parameters that follow from them.

Covered are models built from RMSNorm, rotary attention with grouped key-value heads (Ainslie et
al., 2023, arXiv:2305.13245) and a gated MLP (Shazeer, 2020, arXiv:2002.05202): Llama, Mistral,
Qwen 2 and 3, SmolLM, OLMo 2 and Gemma 3. Mixtures of experts are out of scope.
"""

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from course_utils.paths import data_dir
from course_utils.validation import (
    check_choice,
    check_count,
    check_flag,
    check_text,
    keep_plain,
    shown,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
LINEARS = ATTENTION_LINEARS + MLP_LINEARS

# What sets each family's block apart from Llama's; the rest is read from the configuration.
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "smollm3": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
    "olmo2": {"qk_norm": "full", "norm_placement": "post", "norm_scales_in_float32": True},
    "gemma3_text": {
        "qk_norm": "head",
        "norm_placement": "sandwich",
        "norm_scales_in_float32": True,
    },
}
_NORM_NAMES = {
    "pre": ("input_layernorm", "post_attention_layernorm"),
    "post": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "sandwich": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The dimensions of a dense decoder-only transformer.

    Args:
        name: What to call it in tables.
        vocab_size: Rows of the embedding matrix, padding included.
        d_model: Width of the residual stream.
        n_layers: Number of blocks.
        n_heads: Query heads.
        n_kv_heads: Key and value heads; divides ``n_heads``.
        head_dim: Width of a head; ``n_heads * head_dim`` need not be ``d_model``.
        d_ff: Inner width of the gated MLP.
        tied_embeddings: Whether the language-model head is the embedding matrix itself.
        qkv_bias: Whether ``q_proj``, ``k_proj`` and ``v_proj`` have a bias.
        o_bias: Whether ``o_proj`` has one.
        mlp_bias: Whether the MLP's three linear layers have one.
        qk_norm: RMSNorm of queries and keys: none, over each head, or over all heads together.
        norm_placement: Norms before attention and MLP (Llama), after them (OLMo 2), or both.
        norm_scales_in_float32: Whether a norm applies its scale before it casts back to the dtype.
        n_labels: Outputs of a classification head in the language-model head's place, or None.

    Raises:
        ValueError: If a value is out of range or the heads cannot be grouped.
    """

    name: str
    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    tied_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    norm_placement: Literal["pre", "post", "sandwich"] = "pre"
    norm_scales_in_float32: bool = False
    n_labels: int | None = None

    def __post_init__(self) -> None:
        keep_plain(self)
        check_text("name", self.name)
        for size in (
            "vocab_size",
            "d_model",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "head_dim",
            "d_ff",
        ):
            check_count(size, getattr(self, size))
        for flag in (
            "tied_embeddings",
            "qkv_bias",
            "o_bias",
            "mlp_bias",
            "norm_scales_in_float32",
        ):
            check_flag(flag, getattr(self, flag))
        check_choice("qk_norm", self.qk_norm, ("none", "head", "full"))
        check_choice("norm_placement", self.norm_placement, _NORM_NAMES)
        check_count("n_labels", self.n_labels, is_none_ok=True)
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads={self.n_kv_heads} must divide n_heads={self.n_heads}")

    @property
    def q_width(self) -> int:
        """Width of all query heads together."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together; the values' too."""
        return self.n_kv_heads * self.head_dim

    @property
    def cache_width(self) -> int:
        """Elements of one token's keys and values in all blocks."""
        return 2 * self.n_layers * self.kv_width

    @property
    def norm_names(self) -> tuple[str, ...]:
        """Names of a block's norms over the residual width, in the order they are applied."""
        return _NORM_NAMES[self.norm_placement]

    @property
    def head_is_embedding(self) -> bool:
        """Whether the head's matrix is the embedding matrix: a classification head never is."""
        return self.tied_embeddings and self.n_labels is None

    @property
    def n_outputs(self) -> int:
        """Outputs of the head: the vocabulary, or the labels."""
        return self.vocab_size if self.n_labels is None else self.n_labels

    @property
    def linears(self) -> tuple[str, ...]:
        """Names of a block's linear layers, as in transformers."""
        return LINEARS

    def linear_shape(self, name: str) -> tuple[int, int]:
        """Return (inputs, outputs) of one of a block's linear layers, named as in transformers."""
        d, ff, q, kv = self.d_model, self.d_ff, self.q_width, self.kv_width
        return {
            "q_proj": (d, q),
            "k_proj": (d, kv),
            "v_proj": (d, kv),
            "o_proj": (q, d),
            "gate_proj": (d, ff),
            "up_proj": (d, ff),
            "down_proj": (ff, d),
        }[name]

    def has_bias(self, linear: str) -> bool:
        """Return whether one of a block's linear layers has a bias."""
        if linear in MLP_LINEARS:
            return self.mlp_bias
        return self.o_bias if linear == "o_proj" else self.qkv_bias

    def block_parameters(self) -> dict[str, int]:
        """Return the number of elements of each of a block's parameters, by name."""
        sizes = {}
        for linear in LINEARS:
            d_in, d_out = self.linear_shape(linear)
            sizes[f"{linear}.weight"] = d_in * d_out
            if self.has_bias(linear):
                sizes[f"{linear}.bias"] = d_out
        if self.qk_norm != "none":
            is_full = self.qk_norm == "full"
            sizes["q_norm.weight"] = self.q_width if is_full else self.head_dim
            sizes["k_norm.weight"] = self.kv_width if is_full else self.head_dim
        return sizes | {f"{norm}.weight": self.d_model for norm in self.norm_names}

    def outer_parameters(self) -> dict[str, int]:
        """Return the elements of the parameters outside the blocks: embedding, final norm, head.

        A head that is the embedding matrix is not listed a second time.
        """
        sizes = {"embedding": self.vocab_size * self.d_model, "final_norm": self.d_model}
        return sizes if self.head_is_embedding else sizes | {"head": self.n_outputs * self.d_model}

    @property
    def n_parameters(self) -> int:
        """Number of parameters of the whole model."""
        block = sum(self.block_parameters().values())
        return self.n_layers * block + sum(self.outer_parameters().values())


def known_architectures() -> dict[str, Architecture]:
    """Return the models of ``data/architectures.yaml``, by name."""
    known = {}
    for name, entry in _entries().items():
        sizes = {key: value for key, value in entry.items() if key not in ("hub_id", "parameters")}
        sizes.setdefault("head_dim", sizes["d_model"] // sizes["n_heads"])
        known[name] = Architecture(name=name, **sizes)
    return known


@cache
def _entries() -> dict[str, dict[str, Any]]:
    import yaml

    return yaml.safe_load((data_dir() / "architectures.yaml").read_text(encoding="utf-8"))


def architecture_of(model: "nn.Module | PreTrainedConfig | Architecture | str") -> Architecture:
    """Return the architecture of a model, of its configuration, or of a well-known name.

    Args:
        model: A transformers model (wrapped by PEFT or not), its configuration, an architecture,
            or a name such as ``"Qwen3-0.6B"`` or ``"Qwen/Qwen3-0.6B"``. A configuration does not
            say which head it is for: a language-model head is assumed.

    Raises:
        ValueError: If the name is unknown, and the message lists similar ones; or the model is of a
            family that is not covered.
    """
    if isinstance(model, Architecture):
        return model
    if isinstance(model, str):
        return _named(model)
    config = getattr(model, "config", model)
    family = getattr(config, "model_type", type(model).__name__)
    if family not in _FAMILIES:
        raise ValueError(
            f"model_type={family!r} must be one of {', '.join(_FAMILIES)}: "
            "other blocks (mixtures of experts among them) save other tensors"
        )
    has_labels = hasattr(model, "config") and hasattr(model, "score")
    return _read_config(config, family, n_labels=config.num_labels if has_labels else None)


def _named(name: str) -> Architecture:
    names = {known.lower(): known for known in _entries()}
    names |= {entry["hub_id"].lower(): known for known, entry in _entries().items()}
    if name.lower() in names:
        return known_architectures()[names[name.lower()]]
    close = difflib.get_close_matches(name.lower(), names, n=8, cutoff=0.4)
    similar = dict.fromkeys(names[match] for match in close) or list(_entries())[:8]
    raise ValueError(f"no architecture is called {shown(name)}; similar: {', '.join(similar)}")


def _read_config(config: Any, family: str, n_labels: int | None) -> Architecture:  # noqa: ANN401
    traits = dict(_FAMILIES[family])
    if getattr(config, "attention_bias", False):
        traits |= {"qkv_bias": True, "o_bias": True}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Architecture(
        name=Path(getattr(config, "name_or_path", "")).name or family,
        vocab_size=config.vocab_size,
        d_model=config.hidden_size,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        d_ff=config.intermediate_size,
        tied_embeddings=config.tie_word_embeddings,
        mlp_bias=getattr(config, "mlp_bias", False),
        n_labels=n_labels,
        **traits,
    )
