"""Packed examples do not see one another: in attention, positions, logits and loss."""

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from course_utils.data import encode_instruction, load_task, pack_examples, pad_packed
from course_utils.models import load_tokenizer
from tests.training.runs import random_examples, tiny_llama

VOCABULARY = 3072
LENGTH = 128
ARCHITECTURES = ("llama", "qwen3", "gpt2")


def tiny_model(architecture: str, attention: str) -> nn.Module:
    """A model of two layers for the embedded tokenizer; Llama and Qwen3 with grouped queries."""
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "attn_implementation": attention, "pad_token_id": 0}
    if architecture == "gpt2":
        config = GPT2Config(
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=LENGTH,
            bos_token_id=1,
            eos_token_id=2,
            **common,
        )
        return GPT2LMHeadModel(config).eval()
    is_llama = architecture == "llama"
    config_class, model_class = (
        (LlamaConfig, LlamaForCausalLM) if is_llama else (Qwen3Config, Qwen3ForCausalLM)
    )
    config = config_class(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=LENGTH,
        **common,
    )
    return model_class(config).eval()


@pytest.fixture(scope="module")
def examples():
    tokenizer = load_tokenizer("embedded")
    rows = load_task("instructions", "validation").select(range(12))
    return [
        encode_instruction(tokenizer, row["instruction"], row["input"], row["output"])
        for row in rows
    ]


@pytest.fixture(scope="module")
def packed(examples):
    rows = pack_examples(examples, LENGTH)
    assert len(rows) < len(examples) / 2
    return rows, pad_packed([rows[i] for i in range(len(rows))], pad_token_id=0)


def run(model, batch, **options):
    with torch.no_grad():
        return model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            use_cache=False,
            **options,
        )


def spans(rows, examples):
    """Yield (row, start, end, example) of all that is packed."""
    for r, group in enumerate(rows.groups):
        start = 0
        for index in group:
            end = start + len(examples[index]["input_ids"])
            yield r, start, end, examples[index]
            start = end


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_example_has_the_logits_it_has_alone(examples, packed, architecture, attention):
    model = tiny_model(architecture, attention)
    rows, batch = packed
    together = run(model, batch).logits
    for r, start, end, example in spans(rows, examples):
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([example["input_ids"]])).logits[0]
        torch.testing.assert_close(together[r, start:end], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_does_not_cross_a_border(examples, packed, architecture):
    model = tiny_model(architecture, "eager")
    rows, batch = packed
    for layer in run(model, batch, output_attentions=True).attentions:
        for r, start, end, _ in spans(rows, examples):
            assert (layer[r, :, start:end, :start] == 0).all()
            assert (layer[r, :, start:end, end:] == 0).all()
            torch.testing.assert_close(
                layer[r, :, start:end, start:end].sum(-1), torch.ones(layer.shape[1], end - start)
            )


def test_positions_start_again_at_every_example(examples, packed):
    rows, batch = packed
    for r, start, end, _ in spans(rows, examples):
        assert batch["position_ids"][r, start:end].tolist() == list(range(end - start))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_packed_loss_is_the_mean_over_the_same_targets(examples, packed, architecture):
    model = tiny_model(architecture, "sdpa")
    _, batch = packed
    total = count = 0.0
    for example in examples:
        labels = torch.tensor([example["labels"]])
        n = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([example["input_ids"]]), labels=labels).loss
        total, count = total + loss.item() * n, count + n
    together = run(model, batch, labels=batch["labels"]).loss.item()
    assert together == pytest.approx(total / count, rel=1e-5)


def test_changing_a_neighbour_changes_nothing():
    model = tiny_llama().eval()
    first, second = random_examples(2)
    other = {name: [(t % 58) + 1 for t in second[name]] for name in second}

    def logits(neighbour: dict) -> torch.Tensor:
        batch = pad_packed([pack_examples([first, neighbour], 64)[0]], 0)
        with torch.no_grad():
            return model(
                input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
            ).logits[0, : len(first["input_ids"])]

    assert torch.equal(logits(second), logits(other))
