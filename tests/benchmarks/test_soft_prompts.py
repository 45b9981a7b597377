"""Each part of the benchmark runs, on as little as it takes, and compares like with like."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.memory import architecture_of, estimate
from course_utils.methods import count_parameters
from course_utils.models import load_base_model
from tests.benchmarks import soft_prompts
from tests.benchmarks.adapters import SHAPE_135M
from tests.benchmarks.soft_prompts import LORA, SOFT_PROMPTS, Scale


def tiny() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            num_hidden_layers=2,
            intermediate_size=48,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=3000,
            max_position_embeddings=64,
        )
    )


TINY = Scale(build=tiny, batch_size=2, seq_len=8)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, LlamaForCausalLM]:
    monkeypatch.setattr(soft_prompts, "load_base_model", lambda source: tiny())
    return soft_prompts.served()


@pytest.mark.parametrize("name", SOFT_PROMPTS)
def test_peft_trains_as_much_as_we_do(name: str) -> None:
    ours = soft_prompts.apply(TINY.model(), SOFT_PROMPTS[name])
    theirs = soft_prompts.of_peft(TINY.model(), SOFT_PROMPTS[name])
    assert count_parameters(ours).trainable == count_parameters(theirs).trainable


@pytest.mark.parametrize("name", SOFT_PROMPTS)
def test_a_step_trains_the_prompt_of_either(name: str) -> None:
    ours, theirs = (
        put_on(TINY.model(), SOFT_PROMPTS[name])
        for put_on in (soft_prompts.apply, soft_prompts.of_peft)
    )
    for model in (ours, theirs):
        trained = [p for p in model.parameters() if p.requires_grad]
        before = [p.clone() for p in trained]
        soft_prompts.training_step(model, TINY.ids(TINY.model()))()
        assert not any(map(torch.equal, before, trained))
        assert all(p.grad is None for p in trained)


def test_contests_run_and_are_of_one_size() -> None:
    lines = list(
        soft_prompts.table(
            soft_prompts.against_peft(TINY, SOFT_PROMPTS["prefix"]), "PEFT", rounds=1
        )
    )
    assert [line.split()[0] for line in lines] == ["PEFT", "ours"]
    contest, _ = soft_prompts.against_lora(TINY)
    assert list(contest) == ["LoRA", "bottleneck"]
    for shape in map(architecture_of, (load_base_model("embedded"), SHAPE_135M)):
        lora, bottleneck = (
            estimate(shape, method, batch_size=1, seq_len=1).n_trained
            for method in (LORA, soft_prompts.equal_bottleneck(shape))
        )
        assert bottleneck == pytest.approx(lora, rel=0.02)


def test_methods_are_served_as_they_would_be(models: dict[str, LlamaForCausalLM]) -> None:
    assert list(models) == ["base", "LoRA, merged", "LoRA, unmerged", "bottleneck", "prefix"]
    ids = torch.arange(1, 9)[None]
    logits = {name: model(input_ids=ids).logits for name, model in models.items()}
    for name in ("LoRA, merged", "LoRA, unmerged", "bottleneck"):
        torch.testing.assert_close(logits[name], logits["base"])
    assert not torch.allclose(logits["prefix"], logits["base"])
    assert not any(model.training for model in models.values())


def test_every_further_token_finds_the_same_cache(
    models: dict[str, LlamaForCausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    contest, lengths = soft_prompts.writing(models, 8), []
    run = soft_prompts._pass

    def noted(model: object, ids: torch.Tensor, cache: object) -> object:
        lengths.append(cache.get_seq_length())
        return run(model, ids, cache)

    monkeypatch.setattr(soft_prompts, "_pass", noted)
    for call in contest.values():
        call()
        call()
    assert lengths == [8] * 8 + [8 + soft_prompts.N_VIRTUAL_TOKENS] * 2


@pytest.mark.parametrize("make", [soft_prompts.reading, soft_prompts.writing])
def test_ratios_to_the_base_are_given(
    models: dict[str, LlamaForCausalLM], make: Callable[..., soft_prompts.Contest]
) -> None:
    lines = list(soft_prompts.table(make(models, 8), "base", rounds=1, repeats=1))
    assert [("x " in line) for line in lines] == [False] + [True] * 4
