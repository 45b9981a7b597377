"""The lean pass is transformers' own, to rounding: states, gradients, caches; and steps aside."""

from collections.abc import Callable
from contextlib import nullcontext

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.models import kernels
from course_utils.models.cache import roomy_cache
from course_utils.models.decoder import can_decode, decode, read_prompts
from course_utils.models.lean import is_lean, lean, trunk_of_llama
from course_utils.training.model_loss import model_loss

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 256,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
}


def build(kind: str = "llama") -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind])
    for parameter in model.parameters():  # nothing at its start: biases and norms count as well
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batch(layout: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, 99, (3, 14))
    mask = torch.ones_like(ids)
    if layout == "packed":  # texts of 1 to 14 tokens: some less than half as long as others
        positions = [[*range(6), *range(8)], [*range(14)], [*range(1), *range(2), *range(11)]]
        return {"input_ids": ids, "position_ids": torch.tensor(positions)}
    if layout == "right":
        mask[0, 9:], mask[2, 2:] = 0, 0
        return {"input_ids": ids, "attention_mask": mask}
    if layout == "left":
        mask[0, :9], mask[2, :10] = 0, 0
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {"input_ids": ids}


def states(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    output = model.model(**inputs, use_cache=False).last_hidden_state
    mask = inputs.get("attention_mask")
    return output if mask is None else output * mask[..., None]


def gradients(model: nn.Module, output: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    trained = [p for n, p in model.named_parameters() if p.requires_grad and n != "lm_head.weight"]
    return list(torch.autograd.grad((output * weights).sum(), trained))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layout", ["plain", "right", "left", "packed"])
@pytest.mark.parametrize("longest", [kernels.MAX_SPELT_OUT_TOKENS, 3])
def test_states_and_gradients_are_those_of_transformers(
    kind: str, layout: str, longest: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kernels, "MAX_SPELT_OUT_TOKENS", longest)
    model, inputs = build(kind), batch(layout)
    expected = states(model, inputs)
    with lean(model):
        assert is_lean(model.model)
        found = states(model, inputs)
    assert not is_lean(model.model)
    assert not torch.equal(found, expected), "the model computed as it always does"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", ["plain", "right", "left", "packed"])
def test_states_that_are_asked_for_alone_are_the_same(layout: str):
    model, inputs = build(), batch(layout)
    places = torch.tensor([13, 0, 14]) if layout == "left" else torch.tensor([1, 0, 14, 29])
    with lean(model):
        whole = model.model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)[places]
        kept = model.model(**inputs, use_cache=False, keep=places).last_hidden_state
    real = inputs.get("attention_mask", torch.ones(3, 14)).flatten()[places].bool()
    torch.testing.assert_close(kept[real], whole[real])


@pytest.mark.parametrize("method", [LoRAConfig(rank=2), PromptTuningConfig(), PrefixTuningConfig()])
def test_what_a_model_carries_computes_and_learns_as_before(method: object):
    model, inputs = apply(build(), method), batch("right")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    expected = states(model, inputs)
    with lean(model):
        found = states(model, inputs)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def watch(model: nn.Module) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)


def change(model: nn.Module) -> None:
    class Other(type(model.model.layers[0].mlp)):
        pass

    model.model.layers[0].mlp.__class__ = Other


@pytest.mark.parametrize(
    ("alter", "more"),
    [
        (watch, {}),
        (change, {}),
        (lambda model: model.to(torch.bfloat16), {}),
        (lambda _: None, {"output_hidden_states": True}),
    ],
    ids=["hook", "part", "precision", "all states"],
)
def test_the_trunk_computes_as_always_where_more_is_asked_of_it(
    alter: Callable[[nn.Module], object], more: dict[str, bool]
):
    model, inputs, places = build(), batch("right"), torch.tensor([3, 14])
    alter(model)
    expected = model.model(**inputs, **more, use_cache=False).last_hidden_state
    with lean(model):
        found = model.model(**inputs, **more, use_cache=False).last_hidden_state
        kept = model.model(**inputs, **more, use_cache=False, keep=places).last_hidden_state
    assert torch.equal(found, expected)
    assert torch.equal(kept, expected.flatten(0, 1)[places])


def test_other_architectures_are_left_alone():
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99)
    model = AutoModelForCausalLM.from_config(config)
    assert trunk_of_llama(model) is None
    before = dict(vars(model.transformer))
    with lean(model):
        assert vars(model.transformer) == before
    windowed = AutoModelForCausalLM.from_config(MistralConfig(**SIZES, sliding_window=8))
    assert trunk_of_llama(windowed) is None


def test_pefts_wrapper_is_looked_into_unless_it_has_virtual_tokens():
    ids = torch.arange(5)[None]
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    for config, is_known in ((lora, True), (prompt, False)):
        model = peft.get_peft_model(build(), config)
        assert (trunk_of_llama(model) is not None) == is_known
        expected = model(input_ids=ids, labels=ids).loss
        with lean(model):
            found = model_loss(model, {"input_ids": ids, "labels": ids})
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_an_error_leaves_the_trunk_as_it_was():
    model = build()
    with pytest.raises(ZeroDivisionError), lean(model):
        _ = 1 / 0
    assert "forward" not in vars(model.model)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("method", [None, LoRAConfig(rank=2, target_modules=("q_proj", "o_proj"))])
@pytest.mark.parametrize("layout", ["plain", "left"])
@torch.no_grad()
def test_a_text_is_written_on_as_it_is_read_whole(
    kind: str, method: LoRAConfig | None, layout: str
):
    """Prompt into the cache, then token by token; a row leaves on the way."""
    model = build(kind) if method is None else apply(build(kind), method)
    for name, parameter in model.named_parameters():
        if name.endswith(".B"):
            parameter.data.normal_()
    ids, mask = batch("left")["input_ids"], torch.ones(3, 14, dtype=torch.long)
    if layout == "left":
        mask = batch("left")["attention_mask"]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    whole = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    cache = roomy_cache(1)  # too little: it has to be moved
    assert can_decode(model, model.model)
    with lean(model):
        found = read_prompts(
            model, model.model, ids[:, :11], mask[:, :11], positions[:, :11], cache
        )
        torch.testing.assert_close(found, whole[:, 10], rtol=1e-3, atol=1e-4)
        rows = torch.arange(3)
        for place in range(11, 14):
            if place == 12:
                rows = torch.tensor([0, 2])
                cache.batch_select_indices(rows)
            part = slice(place, place + 1)
            arguments = ids[rows, part], mask[rows, : place + 1], positions[rows, part], cache
            found = decode(model, model.model, *arguments)
            real = mask[rows, place].bool()
            torch.testing.assert_close(found[real], whole[rows, place][real], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("is_lean_now", [False, True])
@torch.no_grad()
def test_the_roomy_cache_holds_what_transformers_own_does(is_lean_now: bool):
    model, ids = build(), batch("plain")["input_ids"]
    ours, theirs = roomy_cache(2), DynamicCache()
    for start, stop in ((0, 9), (9, 10), (10, 14)):
        for cache in (ours, theirs):
            with lean(model) if is_lean_now and cache is ours else nullcontext():
                model(input_ids=ids[:, start:stop], past_key_values=cache, use_cache=True)
        assert ours.get_seq_length() == stop
        for mine, other in zip(ours.layers, theirs.layers, strict=True):
            torch.testing.assert_close(mine.keys, other.keys, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mine.values, other.values, rtol=1e-4, atol=1e-5)


def test_a_hook_on_the_model_or_a_soft_prompt_is_not_decoded_past():
    prompted, model = apply(build(), PromptTuningConfig()), build()
    assert not can_decode(prompted, prompted.model)
    model.register_forward_hook(lambda *_: None)
    assert not can_decode(model, model.model)
