"""Training steps to be estimated and measured: shapes, methods, batches."""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from course_utils.measure import MemoryMeasurement, measure_training_step
from course_utils.memory import (
    Architecture,
    Footprint,
    MemoryEstimate,
    architecture_of,
    estimate,
    known_architectures,
)
from course_utils.methods import (
    FrozenFineTuning,
    FullFineTuning,
    LoRAConfig,
)

PARTS_TOLERANCE, PEAK_TOLERANCE = 0.01, 0.05


SHAPES: dict[str, PreTrainedConfig] = {
    "embedded": LlamaConfig(
        hidden_size=256,
        num_hidden_layers=6,
        intermediate_size=512,
        num_attention_heads=4,
        vocab_size=3072,
        tie_word_embeddings=True,
    ),
    "grouped": LlamaConfig(
        hidden_size=128,
        num_hidden_layers=4,
        intermediate_size=384,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=1000,
    ),
    "wide": LlamaConfig(
        hidden_size=256,
        num_hidden_layers=2,
        intermediate_size=1024,
        num_attention_heads=8,
        vocab_size=500,
    ),
    "small vocabulary": LlamaConfig(  # The peak is inside a block.
        hidden_size=256,
        num_hidden_layers=2,
        intermediate_size=1024,
        num_attention_heads=8,
        vocab_size=60,
    ),
    "qwen3": Qwen3Config(
        hidden_size=96,
        num_hidden_layers=4,
        intermediate_size=256,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=800,
        tie_word_embeddings=True,
    ),
    "qwen2": Qwen2Config(
        hidden_size=96,
        num_hidden_layers=3,
        intermediate_size=256,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=800,
    ),
    "mistral": MistralConfig(
        hidden_size=96,
        num_hidden_layers=3,
        intermediate_size=256,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=800,
    ),
    "smollm3": SmolLM3Config(
        hidden_size=96,
        num_hidden_layers=3,
        intermediate_size=256,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=800,
        pad_token_id=0,
    ),
    "olmo2": Olmo2Config(
        hidden_size=96,
        num_hidden_layers=3,
        intermediate_size=256,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=800,
    ),
    "gemma3": Gemma3TextConfig(
        hidden_size=96,
        num_hidden_layers=3,
        intermediate_size=256,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=800,
    ),
    "biases": LlamaConfig(
        hidden_size=96,
        num_hidden_layers=2,
        intermediate_size=160,
        num_attention_heads=3,
        vocab_size=300,
        attention_bias=True,
        mlp_bias=True,
    ),
}


METHODS: dict[str, Footprint] = {
    "full": FullFineTuning(),
    "last 2": FrozenFineTuning(last_n_layers=2, train_head=False),
    "last 1 and head": FrozenFineTuning(last_n_layers=1, train_head=True),
    "head": FrozenFineTuning(last_n_layers=0, train_head=True),
    "norms": FrozenFineTuning(last_n_layers=0, train_norms=True, train_head=False),
    "lora all-linear": LoRAConfig(rank=8),
    "lora q v": LoRAConfig(rank=8, target_modules=("q_proj", "v_proj")),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training step, to be estimated and measured."""

    shape: str = "embedded"
    method: str = "full"
    batch_size: int = 2
    seq_len: int = 64
    attention: str = "sdpa"
    checkpointing: bool = False
    is_padded: bool = False
    dtype: str = "float32"
    optimizer: str = "adamw"
    n_labels: int | None = None
    accumulates: bool = False

    def __str__(self) -> str:
        changed = (value for name, value in vars(self).items() if value != getattr(Case, name))
        return "-".join(str(value) for value in changed).replace(" ", "_") or "plain"


def build(case: Case) -> PreTrainedModel:
    """Make the model with random weights and freeze what the method freezes."""
    torch.manual_seed(0)
    config = type(SHAPES[case.shape]).from_dict(SHAPES[case.shape].to_dict())
    config.use_cache = False
    if case.n_labels:
        config.num_labels, config.pad_token_id = case.n_labels, 0
        kind = AutoModelForSequenceClassification
    else:
        kind = AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation=case.attention)
    model = prepare(model.to(getattr(torch, case.dtype)), METHODS[case.method])
    if case.checkpointing:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.activation_checkpointing_enable()
    return model


def prepare(model: PreTrainedModel, method: Footprint) -> PreTrainedModel:
    """Do to a model what a footprint describes, independently of it."""
    if isinstance(method, LoRAConfig):
        targets = method.target_modules
        config = LoraConfig(
            r=method.rank,
            lora_dropout=method.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type=TaskType.SEQ_CLS if hasattr(model, "score") else None,
        )
        return get_peft_model(model, config)
    if isinstance(method, FrozenFineTuning):
        model.requires_grad_(False)
        for block in model.model.layers[len(model.model.layers) - method.last_n_layers :]:
            block.requires_grad_(True)
        for name, parameter in model.named_parameters():
            if "norm" in name and method.train_norms:
                parameter.requires_grad_(True)
        if method.last_n_layers:
            model.model.norm.requires_grad_(True)
        if method.train_head:
            head = model.score if hasattr(model, "score") else model.lm_head
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
    return model


def make_batch(case: Case, vocab_size: int) -> dict[str, torch.Tensor]:
    """Make a batch of random tokens; of a padded one, the first sequence ends early."""
    generator = torch.Generator().manual_seed(1)
    shape = (case.batch_size, case.seq_len)
    tokens = torch.randint(1, vocab_size, shape, generator=generator)
    mask = torch.ones_like(tokens)
    if case.is_padded:
        mask[0, -(case.seq_len // 4) :] = 0
    labels = torch.zeros(case.batch_size, dtype=torch.long) if case.n_labels else tokens
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def predict(model: object, case: Case, method: Footprint) -> MemoryEstimate:
    """Estimate the case's step."""
    return estimate(
        model,
        method,
        batch_size=case.batch_size,
        seq_len=case.seq_len,
        dtype=case.dtype,
        optimizer=case.optimizer,
        gradient_checkpointing=case.checkpointing,
        attention=case.attention,
        is_padded=case.is_padded,
        accumulates_gradients=case.accumulates,
    )


def both(
    case: Case, model: PreTrainedModel | None = None
) -> tuple[MemoryEstimate, MemoryMeasurement]:
    """Estimate and measure the case's step."""
    model = model or build(case)
    architecture = architecture_of(model)
    method = METHODS[case.method]
    if case.method.endswith("head"):
        # The estimate starts from the model as it was before its head was untied.
        tied = SHAPES[case.shape].tie_word_embeddings
        architecture = replace(architecture, tied_embeddings=tied)
    measured = measure_training_step(
        model,
        make_batch(case, architecture.vocab_size),
        optimizer=case.optimizer,
        accumulates_gradients=case.accumulates,
    )
    return predict(architecture, case, method), measured


def check(case: Case, model: PreTrainedModel | None = None) -> None:
    """Every part agrees with its measurement, block by block; the peak nearly."""
    predicted, measured = both(case, model)
    assert predicted.weights_bytes == measured.weights_bytes
    assert predicted.gradients_bytes == measured.gradients_bytes
    assert predicted.optimizer_bytes == measured.optimizer_bytes
    near = {"rel": PARTS_TOLERANCE, "abs": 1024}
    assert list(predicted.layers_bytes) == pytest.approx(list(measured.layers_bytes), **near)
    assert predicted.recomputed_bytes == pytest.approx(measured.recomputed_bytes, **near)
    assert predicted.outer_bytes == pytest.approx(measured.outer_bytes, **near)
    assert predicted.logits_bytes == pytest.approx(measured.logits_bytes, **near)
    assert predicted.total_bytes == pytest.approx(measured.total_bytes, rel=PARTS_TOLERANCE)
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=PEAK_TOLERANCE)


@cache
def tied() -> Architecture:
    return known_architectures()["SmolLM2-135M"]


def cost(method: Footprint, shape: Architecture | None = None, **changes: object) -> MemoryEstimate:
    return estimate(shape or tied(), method, **({"batch_size": 2, "seq_len": 64} | changes))
