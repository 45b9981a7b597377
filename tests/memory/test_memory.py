"""Estimated memory against measured memory, and the properties that estimates must have."""

import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from course_utils.measure import MemoryMeasurement, measure_training_step
from course_utils.memory import (
    AddedModule,
    Architecture,
    BlockTraining,
    Footprint,
    MemoryEstimate,
    MemoryParts,
    Trained,
    architecture_of,
    bytes_per_parameter,
    estimate,
    format_bytes,
    known_architectures,
    kv_cache_bytes,
    optimizer_names,
)
from course_utils.memory.optimizers import pageable_bytes, state_bytes
from course_utils.methods import (
    BottleneckConfig,
    FrozenFineTuning,
    FullFineTuning,
    LoRAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
)
from course_utils.paths import data_dir
from course_utils.rlhf.memory import estimate_ppo

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
            task_type=TaskType.SEQ_CLS if method.train_head else None,
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


@pytest.mark.parametrize("method", ["full", "last 2", "lora all-linear", "lora q v"])
@pytest.mark.parametrize("shape", ["embedded", "grouped", "wide", "qwen3"])
def test_estimate_agrees_with_measurement(shape: str, method: str) -> None:
    case = Case(shape=shape, method=method)
    model = build(case)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    check(case, model)
    base.set_attn_implementation("eager")
    check(replace(case, attention="eager"), model)
    base.activation_checkpointing_enable()
    check(replace(case, attention="eager", checkpointing=True), model)
    base.set_attn_implementation("sdpa")
    check(replace(case, checkpointing=True), model)


@pytest.mark.parametrize(
    "case",
    [
        Case(batch_size=1, seq_len=7),
        Case(batch_size=8, seq_len=128),
        Case(batch_size=1, seq_len=384, attention="eager"),
        Case(shape="grouped", seq_len=200, attention="eager", checkpointing=True),
        Case(shape="qwen3", method="lora q v", batch_size=5, seq_len=33),
    ],
    ids=str,
)
def test_other_batches(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "case",
    [
        Case(shape=shape, method=method)
        for shape in ("qwen2", "mistral", "smollm3", "olmo2", "gemma3", "biases")
        for method in ("full", "norms", "lora all-linear")
    ],
    ids=str,
)
def test_other_families(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("shape", ["embedded", "grouped"])
@pytest.mark.parametrize("method", ["head", "last 1 and head", "norms"])
def test_parts_that_are_trained_alone(shape: str, method: str) -> None:
    check(Case(shape=shape, method=method))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", ["grouped", "qwen3"])
def test_padding_repeats_keys_and_values_and_keeps_the_mask(shape: str, attention: str) -> None:
    check(Case(shape=shape, attention=attention, is_padded=True))
    check(Case(shape=shape, attention=attention, is_padded=True, checkpointing=True))


@pytest.mark.parametrize(
    "case",
    [
        Case(dtype="bfloat16"),
        Case(dtype="bfloat16", shape="grouped", attention="eager"),
        Case(dtype="bfloat16", shape="qwen3", checkpointing=True),
        Case(dtype="bfloat16", shape="olmo2"),
        Case(dtype="bfloat16", shape="gemma3"),
    ],
    ids=str,
)
def test_sixteen_bits(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("method", ["full", "last 1 and head", "head", "norms"])
def test_classifiers(method: str, attention: str) -> None:
    check(Case(shape="grouped", method=method, attention=attention, batch_size=4, n_labels=3))


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum"])
def test_optimizers(optimizer: str) -> None:
    check(Case(shape="grouped", optimizer=optimizer))


def test_optimizer_of_eight_bits() -> None:
    pytest.importorskip("bitsandbytes")
    predicted, measured = both(Case(optimizer="adamw8bit"))
    table_bytes = 2 * 256 * 4  # the two code books, once for all tensors
    assert predicted.optimizer_bytes == measured.optimizer_bytes - table_bytes


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("optimizer", "table_bytes"), [("paged_adamw", 0), ("paged_adamw8bit", 2048)]
)
def test_paged_optimizers_keep_as_much(optimizer: str, table_bytes: int, dtype: str) -> None:
    pytest.importorskip("bitsandbytes")
    predicted, measured = both(Case(shape="embedded", optimizer=optimizer, dtype=dtype))
    assert predicted.optimizer_bytes == measured.optimizer_bytes - table_bytes
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=PEAK_TOLERANCE)


@pytest.mark.parametrize("optimizer", ["adamw8bit", "paged_adamw", "paged_adamw8bit"])
def test_bitsandbytes_pages_what_the_estimate_says(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own code makes the states, on a device without memory; what it pages is noted."""
    optim = pytest.importorskip("bitsandbytes.optim")
    from bitsandbytes import functional

    paged = []

    def get_paged(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        paged.append(torch.empty(shape, dtype=dtype, device=device))
        return paged[-1]

    monkeypatch.setattr(functional, "get_paged", get_paged)
    monkeypatch.setattr(functional, "fill", lambda buffer, value: None)
    kind = {
        "adamw8bit": optim.AdamW8bit,
        "paged_adamw": optim.PagedAdamW,
        "paged_adamw8bit": optim.PagedAdamW8bit,
    }[optimizer]
    for size in (1, 4095, 4096, 99_999, 100_000, 100_001, 1_000_000):
        theirs = kind([torch.nn.Parameter(torch.empty(size, device="meta"))])
        monkeypatch.setattr(theirs, "page_mng", SimpleNamespace(paged_tensors=[]))
        paged.clear()
        theirs.init_state(theirs.param_groups[0], theirs.param_groups[0]["params"][0], 0, 0)
        (state,) = theirs.state.values()
        held = [state[key] for key in ("state1", "state2", "absmax1", "absmax2") if key in state]
        assert sum(tensor.nbytes for tensor in held) == state_bytes([size], optimizer, 4)
        assert [sum(tensor.nbytes for tensor in paged)] == pageable_bytes([size], optimizer)


def test_paged_states_leave_the_card_but_for_the_one_in_use() -> None:
    plain, paged = (
        cost(FullFineTuning(), known_architectures()["SmolLM2-135M"], optimizer=name)
        for name in ("adamw8bit", "paged_adamw8bit")
    )
    assert (paged.peak_bytes, paged.parts()) == (plain.peak_bytes, plain.parts())
    assert plain.pageable_bytes == 0
    assert plain.paged_out_peak_bytes == plain.peak_bytes
    sizes = tied().block_parameters().values()
    large = tied().n_layers * sum(size for size in sizes if size >= 1e5)
    embedding = tied().vocab_size * tied().d_model
    assert paged.pageable_bytes == 2 * (large + embedding)
    assert paged.peak_moment != "optimizer"
    assert paged.paged_out_peak_bytes == paged.peak_bytes - paged.pageable_bytes
    # Where nothing but the optimizer's step is dear, the largest tensor's states are there for it.
    alone = cost(
        FrozenFineTuning(last_n_layers=0), batch_size=1, seq_len=1, optimizer="paged_adamw"
    )
    assert alone.pageable_bytes == 8 * embedding
    assert alone.paged_out_peak_bytes == alone.peak_bytes


def test_low_rank_updates_are_paged_only_where_they_are_large() -> None:
    shape = known_architectures()["Llama-2-7B"]
    small, large = (cost(LoRAConfig(rank=rank), shape, optimizer="paged_adamw") for rank in (8, 64))
    assert small.pageable_bytes < 0.25 * small.optimizer_bytes
    assert large.pageable_bytes == large.optimizer_bytes


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", ["embedded", "grouped"])
def test_accumulated_gradients_are_there_all_along(shape: str, checkpointing: bool) -> None:
    check(Case(shape=shape, accumulates=True, checkpointing=checkpointing))


def test_dropout_keeps_a_copy_and_a_mask_for_every_module() -> None:
    method = LoRAConfig(rank=4, dropout=0.1)
    case = Case(shape="grouped")
    model = prepare(build(case), method)
    measured = measure_training_step(model, make_batch(case, 1000))
    predicted = predict(model, case, method)
    assert predicted.weights_bytes == measured.weights_bytes
    assert predicted.optimizer_bytes == measured.optimizer_bytes
    # The first block's inputs need no gradient, so it keeps no masks for them.
    assert list(predicted.layers_bytes[1:]) == pytest.approx(list(measured.layers_bytes[1:]))
    assert predicted.total_bytes == pytest.approx(measured.total_bytes, rel=0.03)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["full", "last 2", "lora all-linear"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_peak_agrees_with_the_cuda_allocator(method: str, dtype: str, checkpointing: bool) -> None:
    case = Case(method=method, dtype=dtype, checkpointing=checkpointing, batch_size=16, seq_len=256)
    model = build(case).cuda()
    batch = {name: tensor.cuda() for name, tensor in make_batch(case, 3072).items()}
    measured = measure_training_step(model, batch)
    predicted = predict(model, case, METHODS[method])
    assert predicted.weights_bytes == pytest.approx(measured.weights_bytes, rel=0.02)
    assert predicted.activations_bytes == pytest.approx(measured.activations_bytes, rel=0.1)
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.1)


def published() -> dict[str, int]:
    """Return the parameter counts of data/architectures.yaml."""
    text = (data_dir() / "architectures.yaml").read_text(encoding="utf-8")
    return {name: entry["parameters"] for name, entry in yaml.safe_load(text).items()}


@pytest.mark.parametrize(("name", "n_parameters"), published().items())
def test_dimensions_give_the_published_number_of_parameters(name: str, n_parameters: int) -> None:
    assert known_architectures()[name].n_parameters == n_parameters


def test_many_models_are_known_and_three_counts_are_quoted_from_elsewhere() -> None:
    assert len(known_architectures()) >= 18
    assert published()["Llama-2-7B"] == 6_738_415_616
    assert published()["Qwen3-0.6B"] == 596_049_920
    assert published()["SmolLM2-135M"] == 134_515_008


@pytest.mark.parametrize("n_labels", [None, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_architecture_of_a_model_counts_its_parameters(shape: str, n_labels: int | None) -> None:
    model = build(Case(shape=shape, n_labels=n_labels))
    architecture = architecture_of(model)
    assert architecture.n_parameters == sum(p.numel() for p in model.parameters())
    assert architecture.n_labels == n_labels
    block = {name: p.numel() for name, p in model.model.layers[0].named_parameters()}
    assert architecture.block_parameters() == {
        name.removeprefix("self_attn.").removeprefix("mlp."): size for name, size in block.items()
    }


def test_architecture_comes_from_a_model_its_configuration_or_a_name() -> None:
    config = LlamaConfig()  # transformers' defaults are Llama 2 7B's dimensions
    known = known_architectures()["Llama-2-7B"]
    assert replace(architecture_of(config), name=known.name) == known
    for name in ("Llama-2-7B", "llama-2-7b", "meta-llama/Llama-2-7b-hf"):
        assert architecture_of(name) is known or architecture_of(name) == known
    assert architecture_of(known) is known
    wrapped = build(Case(shape="qwen3", method="lora q v"))
    assert architecture_of(wrapped) == architecture_of(SHAPES["qwen3"])


def test_folder_of_a_model_does_not_show_in_its_name(tmp_path) -> None:
    config = LlamaConfig(name_or_path=str(tmp_path / "base_model"))
    assert architecture_of(config).name == "base_model"


def test_unknown_names_list_similar_ones_and_uncovered_families_the_covered() -> None:
    with pytest.raises(KeyError, match=r"Qwen3-0\.6B") as error:
        architecture_of("Qwen/Qwen3-0.5B")
    assert "Mistral" not in str(error.value)
    with pytest.raises(KeyError, match="Llama-2-7B"):
        architecture_of("zzzz")
    with pytest.raises(ValueError, match=r"mixtral.*llama.*mixtures of experts"):
        architecture_of(MixtralConfig())
    with pytest.raises(ValueError, match="Linear"):
        architecture_of(torch.nn.Linear(2, 2))


def test_mixed_precision_adam_takes_sixteen_bytes_a_parameter() -> None:
    costs = bytes_per_parameter(dtype="bfloat16", mixed_precision=True)
    assert costs == {"weight": 2, "gradient": 2, "float32 copy": 4, "optimizer states": 8}
    assert sum(bytes_per_parameter().values()) == 16
    predicted = estimate(
        "Llama-2-7B",
        FullFineTuning(),
        batch_size=1,
        seq_len=1,
        dtype="bfloat16",
        mixed_precision=True,
    )
    states = predicted.weights_bytes + predicted.gradients_bytes + predicted.optimizer_bytes
    assert states == pytest.approx(16 * 6_738_415_616, rel=1e-6)
    assert predicted.weights_bytes == 2 * 6_738_415_616


def test_block_keeps_what_the_derivation_says() -> None:
    shape = known_architectures()["Llama-3.1-8B"]
    predicted = estimate(shape, FullFineTuning(), batch_size=3, seq_len=100)
    d, q, kv, f, h = 4096, 4096, 1024, 14336, 32
    per_token = 4 * (6 * d + 2 * q + 2 * kv + 4 * f + h + 2)
    assert predicted.layers_bytes[1:] == (300 * per_token,) * 31
    assert sum(tensor.n_bytes for tensor in predicted.block) == 300 * per_token


def test_logits_of_a_large_vocabulary_take_twelve_bytes_each() -> None:
    predicted = estimate("Llama-3.2-1B", LoRAConfig(), batch_size=4, seq_len=512)
    assert predicted.logits_bytes == 12 * 4 * 512 * 128_256
    assert predicted.logits_bytes > predicted.weights_bytes / 2


@cache
def tied() -> Architecture:
    return known_architectures()["SmolLM2-135M"]


def cost(method: Footprint, shape: Architecture | None = None, **changes: object) -> MemoryEstimate:
    return estimate(shape or tied(), method, **({"batch_size": 2, "seq_len": 64} | changes))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", ["embedded", "grouped", "qwen3"])
def test_a_cache_is_as_large_as_the_model_makes_it(shape: str, dtype: str) -> None:
    model = build(Case(shape=shape, dtype=dtype)).eval()
    with torch.no_grad():
        cache = model(torch.ones(3, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_cache_bytes(model, 7, batch_size=3, dtype=dtype) == held


def test_a_cache_of_seven_billion_parameters_takes_half_a_megabyte_a_token() -> None:
    # 2 tensors, 32 layers, 4,096 wide, 2 bytes.
    assert kv_cache_bytes("Llama-2-7B", 1, dtype="bfloat16") == 524_288
    assert kv_cache_bytes("Llama-2-7B", 0) == 0
    for wrong in ({"n_tokens": -1}, {"n_tokens": 1, "batch_size": 0}):
        with pytest.raises(ValueError, match=r"n_tokens=.* must be at least 0, batch_size=.* 1"):
            kv_cache_bytes("Llama-2-7B", **wrong)


def test_ppo_trains_a_soft_prompt_in_float32() -> None:
    sizes = {"batch_size": 4, "minibatch_size": 2, "prompt_tokens": 8, "response_tokens": 8}
    method, shape = PromptTuningConfig(num_virtual_tokens=5), tied()
    predicted = estimate_ppo(shape, method, form="shared", dtype="bfloat16", **sizes)
    prompt, value_head = 5 * shape.d_model, shape.d_model + 1
    assert predicted.gradients_bytes == 4 * (prompt + value_head)
    assert predicted.adapters_bytes == 2 * 4 * prompt  # the policy's and the reward model's


def test_frozen_blocks_keep_nothing() -> None:
    predicted = cost(FrozenFineTuning(last_n_layers=2, train_head=False))
    assert predicted.layers_bytes[:-2] == (0,) * (tied().n_layers - 2)
    assert min(predicted.layers_bytes[-2:]) > 0
    deeper = replace(tied(), n_layers=2 * tied().n_layers)
    same = cost(FrozenFineTuning(last_n_layers=2, train_head=False), deeper)
    assert same.activations_bytes == predicted.activations_bytes


@dataclass(frozen=True)
class TiedHeadFootprint:
    """Trains the head without untying it."""

    def footprint(self, architecture: Architecture) -> Trained:
        return Trained(blocks=(BlockTraining(),) * architecture.n_layers, head=True)


def test_tied_head_trained_as_it_is_keeps_every_block() -> None:
    as_it_is, untied = cost(TiedHeadFootprint()), cost(FrozenFineTuning(last_n_layers=0))
    assert min(as_it_is.layers_bytes) > 0
    assert sum(untied.layers_bytes) == 0
    matrix = tied().vocab_size * tied().d_model
    assert untied.n_parameters == as_it_is.n_parameters + matrix
    assert untied.n_trained == as_it_is.n_trained == matrix


def test_checkpointing_costs_memory_where_only_the_last_block_is_trained() -> None:
    deep = replace(tied(), n_layers=200)
    method = FrozenFineTuning(last_n_layers=1, train_head=False)
    without = cost(method, deep)
    assert cost(method, deep, gradient_checkpointing=True).peak_bytes > without.peak_bytes


@dataclass(frozen=True)
class SidecarFootprint:
    """A method that memory knows nothing of: a module of its own at the end of every block."""

    width: int

    def footprint(self, architecture: Architecture) -> Trained:
        d = architecture.d_model
        module = AddedModule(parameters=(d * self.width,) * 2, saved_per_token=d + self.width)
        return Trained(blocks=(BlockTraining(added=(module,)),) * architecture.n_layers)


def test_new_methods_plug_in_through_their_footprint() -> None:
    method = SidecarFootprint(16)
    assert isinstance(method, Footprint)
    assert all(isinstance(footprint, Footprint) for footprint in METHODS.values())
    predicted, d = cost(method), tied().d_model
    assert predicted.n_trained == tied().n_layers * 2 * d * 16
    # Nothing below the first block's module needs a gradient, so it alone keeps anything there.
    assert predicted.layers_bytes[0] >= 2 * 64 * 4 * (d + 16)
    assert predicted.layers_bytes[1] > 4 * predicted.layers_bytes[0]


def test_the_rotation_is_kept_where_a_gradient_first_enters_attention() -> None:
    # Adapters behind the feed-forward part alone: in the first block none does.
    method = BottleneckConfig(bottleneck_size=4, placement="pfeiffer")
    layers = cost(method).layers_bytes
    assert layers[1] == layers[2] + 4 * 2 * 64 * tied().head_dim
    single = cost(method, replace(tied(), n_layers=1))
    assert single.layers_bytes == layers[:1]
    assert {tensor.part for tensor in single.block} == {"mlp"}


def test_a_soft_prompts_network_keeps_what_it_says() -> None:
    for kind in (PromptTuningConfig, PrefixTuningConfig):
        plain, more = (cost(kind(num_virtual_tokens=4, encoder_keeps=n)) for n in (0, 1000))
        assert more.outer_bytes == plain.outer_bytes + 4000
        assert more.layers_bytes == plain.layers_bytes


def test_soft_prompts_need_gradients_down_to_the_first_block() -> None:
    class Prompt:
        def footprint(self, architecture: Architecture) -> Trained:
            blocks = (BlockTraining(),) * architecture.n_layers
            return Trained(blocks=blocks, inputs_need_gradients=True)

    predicted = cost(Prompt())
    assert len(set(predicted.layers_bytes[1:])) == 1
    assert min(predicted.layers_bytes) > 0
    assert predicted.gradients_bytes == 0


def test_quantised_weights_take_their_bits() -> None:
    predicted = cost(LoRAConfig(), dtype="bfloat16", frozen_weight_bits=4.127)
    whole = cost(LoRAConfig(), dtype="bfloat16")
    shape, names = (
        tied(),
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    )
    sizes = shape.block_parameters()
    n_linear = shape.n_layers * sum(sizes[f"{name}.weight"] for name in names)
    saved = whole.weights_bytes - predicted.weights_bytes
    assert saved == pytest.approx(n_linear * (16 - 4.127) / 8, abs=1)
    with pytest.raises(ValueError, match=r"frozen_weight_bits=4.* trains"):
        cost(FullFineTuning(), frozen_weight_bits=4)


def test_seventy_billion_parameters_do_not_fit_in_eighty_gigabytes_but_with_qlora() -> None:
    batch = {"batch_size": 1, "seq_len": 512, "dtype": "bfloat16", "gradient_checkpointing": True}
    lora = estimate("Llama-2-70B", LoRAConfig(rank=16), **batch)
    qlora = estimate("Llama-2-70B", LoRAConfig(rank=16), **batch, frozen_weight_bits=4.127)
    assert lora.peak_bytes > 80e9
    assert qlora.peak_bytes < 48e9  # the QLoRA paper's claim for 65B (arXiv:2305.14314)


BATCHES = st.integers(1, 64)
LENGTHS = st.integers(1, 4096)
FOOTPRINTS = st.sampled_from(list(METHODS.values()))
ARCHITECTURES = st.sampled_from(list(known_architectures().values()))
OPTIONS = st.fixed_dictionaries(
    {
        "attention": st.sampled_from(["sdpa", "eager"]),
        "gradient_checkpointing": st.booleans(),
        "is_padded": st.booleans(),
        "accumulates_gradients": st.booleans(),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
        "optimizer": st.sampled_from(optimizer_names()),
    }
)


@settings(max_examples=60, deadline=None)
@given(ARCHITECTURES, FOOTPRINTS, OPTIONS, BATCHES, LENGTHS, st.integers(1, 8))
def test_more_tokens_never_take_less(shape, method, options, batch, length, factor) -> None:
    small = estimate(shape, method, batch_size=batch, seq_len=length, **options)
    for more in ({"batch_size": batch * factor}, {"seq_len": length * factor}):
        sizes = {"batch_size": batch, "seq_len": length} | more
        large = estimate(shape, method, **sizes, **options)
        assert large.activations_bytes >= small.activations_bytes * (1 if factor == 1 else 1.01)
        assert large.peak_bytes >= small.peak_bytes
        assert large.total_bytes >= small.total_bytes
        assert large.weights_bytes == small.weights_bytes
        assert large.paged_out_peak_bytes >= small.paged_out_peak_bytes
    assert small.pageable_bytes <= small.optimizer_bytes
    assert small.peak_bytes - small.pageable_bytes <= small.paged_out_peak_bytes <= small.peak_bytes


@settings(max_examples=60, deadline=None)
@given(ARCHITECTURES, OPTIONS, BATCHES, LENGTHS)
def test_checkpointing_never_takes_more_where_every_block_is_trained(
    shape, options, batch, length
) -> None:
    for method in (FullFineTuning(), LoRAConfig(), METHODS["norms"]):
        sizes = options | {"batch_size": batch, "seq_len": length}
        kept = estimate(shape, method, **sizes | {"gradient_checkpointing": False})
        recomputed = estimate(shape, method, **sizes | {"gradient_checkpointing": True})
        assert recomputed.activations_bytes < kept.activations_bytes
        assert recomputed.peak_bytes <= kept.peak_bytes


@settings(max_examples=60, deadline=None)
@given(ARCHITECTURES, st.integers(1, 256))
def test_lora_optimizer_bytes_are_exact(shape, rank) -> None:
    predicted = cost(LoRAConfig(rank=rank), shape)
    widths = [shape.linear_shape(name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    widths += [(shape.d_model, shape.d_ff)] * 2 + [(shape.d_ff, shape.d_model)]
    n_trained = shape.n_layers * sum(rank * (d_in + d_out) for d_in, d_out in widths)
    n_tensors = shape.n_layers * 14
    assert predicted.n_trained == n_trained
    assert predicted.optimizer_bytes == 8 * n_trained + 4 * n_tensors
    assert predicted.n_parameters == shape.n_parameters + n_trained


@settings(max_examples=20, deadline=None)
@given(ARCHITECTURES, OPTIONS, BATCHES, LENGTHS)
def test_training_less_never_takes_more(shape, options, batch, length) -> None:
    sizes = options | {"batch_size": batch, "seq_len": length, "gradient_checkpointing": False}
    peaks = [
        estimate(shape, FrozenFineTuning(last_n_layers=n, train_head=False), **sizes).peak_bytes
        for n in (0, 1, 2, shape.n_layers // 2, shape.n_layers - 1, shape.n_layers)
    ]
    assert peaks == sorted(peaks)
    full = estimate(shape, FullFineTuning(), **sizes)
    assert peaks[-1] <= full.peak_bytes
    lora = estimate(shape, LoRAConfig(), **sizes)
    only = LoRAConfig(target_modules=("q_proj",))
    assert estimate(shape, only, **sizes).total_bytes < lora.total_bytes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"seq_len": -1}, "seq_len=-1 must be at least 1"),
        ({"dtype": "int8"}, "dtype='int8' must be one of float32, float16, bfloat16"),
        ({"attention": "flash"}, "attention='flash' must be"),
        ({"optimizer": "lion"}, "optimizer='lion' must be one of adamw, adamw8bit, paged_adamw"),
        ({"mixed_precision": True}, "dtype='float32' must be 'bfloat16' or 'float16'"),
    ],
)
def test_arguments_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(FullFineTuning(), **changes)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (FrozenFineTuning(last_n_layers=31), "last_n_layers=31 must be in 0..30"),
        (FrozenFineTuning(last_n_layers=-1), "last_n_layers=-1 must be in 0..30"),
        (LoRAConfig(rank=0), "rank=0 must be at least 1"),
        (LoRAConfig(target_modules=("query",)), "target_modules=.*must be 'all-linear'"),
        (LoRAConfig(target_modules=()), "target_modules=.*must be 'all-linear'"),
    ],
)
def test_footprints_are_checked(method: Footprint, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(method)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="d_ff=0 must be at least 1"):
        replace(tied(), d_ff=0)
    with pytest.raises(ValueError, match="n_kv_heads=4 must divide n_heads=9"):
        replace(tied(), n_kv_heads=4)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (12_345, "12.3 KB"),
        (999_499, "999 KB"),
        (999_600, "1.00 MB"),
        (112e9, "112 GB"),
        (9.996e9, "10.0 GB"),
        (1.2e12, "1.20 TB"),
        (5e15, "5000 TB"),
    ],
)
def test_bytes_are_written_with_three_digits(n_bytes: float, text: str) -> None:
    assert format_bytes(n_bytes) == text


def test_parts_add_up_and_are_listed() -> None:
    parts = MemoryParts(
        weights_bytes=1,
        gradients_bytes=2,
        optimizer_bytes=4,
        layers_bytes=(8, 16),
        recomputed_bytes=32,
        outer_bytes=64,
        logits_bytes=128,
        peak_bytes=200,
    )
    assert parts.activations_bytes == 8 + 16 + 32 + 64
    assert parts.total_bytes == 255
    rows = dict(parts.rows())
    assert rows["sum of the parts"] == sum(list(rows.values())[:-2]) == 255
    assert rows["peak"] == 200
    assert "activations" in str(parts)
    assert "120 B" in str(parts)


def test_peak_is_the_highest_moment() -> None:
    predicted = cost(FullFineTuning(), batch_size=64, seq_len=1024)
    assert predicted.peak_bytes == max(size for _, size in predicted.moments)
    assert predicted.peak_moment == "loss"
    assert cost(FullFineTuning(), batch_size=1, seq_len=1).peak_moment == "embedding"


def test_importing_does_not_load_torch() -> None:
    code = (
        "import sys, course_utils.memory as m; m.known_architectures();"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
