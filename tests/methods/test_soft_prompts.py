"""What soft prompts compute; how they train, are kept and stored: test_prompts_in_use."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DistilBertConfig,
    DistilBertForTokenClassification,
    StaticCache,
)

from course_utils.generation import generate_tokens, position_ids
from course_utils.methods import adapter_disabled, apply, count_parameters, merge, remove
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig, PTuningV2Config
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.virtual_tokens import drop_encoder
from course_utils.models import load_tokenizer
from tests.methods.adapters import IDS, MODELS, build, logits

N = 4
METHODS = {
    "prompt": PromptTuningConfig(num_virtual_tokens=N),
    "p-tuning": PTuningConfig(num_virtual_tokens=N, hidden_size=9),
    "p-tuning, lstm": PTuningConfig(num_virtual_tokens=N, encoder="lstm", dropout=0.5),
    "prefix": PrefixTuningConfig(num_virtual_tokens=N),
    "prefix, projected": PrefixTuningConfig(num_virtual_tokens=N, projection=True, hidden_size=5),
}
every_method = pytest.mark.parametrize("kind", METHODS)
every_model = pytest.mark.parametrize("name", MODELS)
TEXT = (7, 30, 2, 51)
FULL = torch.ones_like(IDS)
LEFT = FULL.clone()
LEFT[0, :4] = LEFT[1, :2] = 0


def prompted(kind: str, name: str = "llama", seed: int = 2) -> nn.Module:
    model = build(name)
    torch.manual_seed(seed)
    return apply(model, METHODS[kind])


def hooks_of(model: nn.Module) -> list:
    return [*model.base_model._forward_pre_hooks, *model.base_model._forward_hooks]


def after_text(name: str, ids: Tensor = IDS) -> Tensor:
    """The base's logits on a text behind the tokens of ``TEXT``."""
    text = torch.tensor(TEXT).expand(len(ids), -1)
    with torch.no_grad():
        return build(name)(torch.cat([text, ids], dim=1)).logits[:, N:]


def as_text(name: str, kind: str) -> nn.Module:
    """A model whose virtual tokens are those of ``TEXT``, at the input or in the cache."""
    model, text = build(name), torch.tensor([TEXT])
    if kind == "prompt":
        config = PromptTuningConfig(num_virtual_tokens=N, init="text", init_token_ids=TEXT)
        return apply(model, config)
    with torch.no_grad():
        cache = model(text, use_cache=True).past_key_values
    pairs = torch.stack([torch.cat([layer.keys, layer.values]) for layer in cache.layers])
    apply(model, METHODS["prefix"])
    model.soft_prompt.encoder.weight.data = pairs.permute(3, 0, 1, 2, 4).reshape(N, -1).clone()
    assert torch.equal(model.soft_prompt.keys_and_values(), pairs)
    return model


@every_model
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_virtual_tokens_that_are_a_text_act_as_that_text(kind: str, name: str):
    model, expected = as_text(name, kind), after_text(name)
    assert torch.allclose(logits(model), expected, atol=1e-6)
    assert logits(model).shape == logits(build(name)).shape
    with torch.no_grad():
        for ids, mask in ((IDS * LEFT.flip(1), LEFT.flip(1)), (IDS, FULL)):
            padded = model(ids, attention_mask=mask).logits
            assert torch.allclose(padded[mask.bool()], expected[mask.bool()], atol=1e-6)
        last = model(input_ids=IDS, logits_to_keep=2).logits
        embedded = model(inputs_embeds=model.get_input_embeddings()(IDS))
        in_a_tuple = model(IDS, return_dict=False)[0]
        parts = model(IDS[:, :5], use_cache=True)
        rest = model(IDS[:, 5:], past_key_values=parts.past_key_values).logits
    assert torch.allclose(last, expected[:, -2:], atol=1e-6)
    assert torch.allclose(embedded.logits, expected, atol=1e-6)
    assert torch.allclose(in_a_tuple, expected, atol=1e-6)
    assert torch.allclose(torch.cat([parts.logits, rest], dim=1), expected, atol=1e-6)


@every_model
@every_method
def test_a_padded_row_gives_what_it_gives_alone(kind: str, name: str):
    model = prompted(kind, name)
    for mask in (LEFT, LEFT.flip(1)):
        with torch.no_grad():
            batch = model(IDS, attention_mask=mask, position_ids=position_ids(mask)).logits
            for row, ids, is_text in zip(batch, IDS, mask.bool(), strict=True):
                alone = model(ids[None, is_text]).logits[0]
                assert torch.allclose(row[is_text], alone, atol=1e-6)


@every_model
@every_method
def test_a_batch_is_continued_as_its_rows_are_and_without_a_cache_too(kind: str, name: str):
    model, options = prompted(kind, name), {"max_new_tokens": 5, "pad_token_id": 0}
    options |= {"do_sample": False, "eos_token_id": None}
    ours = generate_tokens(model, IDS, LEFT, max_new_tokens=5, eos_token_id=-1, pad_token_id=0)
    for use_cache in (True, False):
        batch = model.generate(IDS, attention_mask=LEFT, use_cache=use_cache, **options)[:, -5:]
        assert torch.equal(batch, ours)
    for ids, mask, answer in zip(IDS, LEFT.bool(), ours, strict=True):
        row = ids[None, mask]
        alone = model.generate(row, attention_mask=torch.ones_like(row), **options)
        assert torch.equal(alone[0, -5:], answer)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_attention_maps_begin_with_the_virtual_places(kind: str):
    model = prompted(kind)
    model.set_attn_implementation("eager")
    length = IDS.shape[1]
    with torch.no_grad():
        maps = model(IDS, output_attentions=True).attentions
    assert len(maps) == 2
    for weights in maps:
        assert weights.shape == (3, 4, length + N if kind == "prompt" else length, length + N)
        from_text = weights[:, :, -length:]
        assert from_text[..., :N].min() > 0
        assert torch.equal(from_text[..., N:], from_text[..., N:].tril())


@every_method
def test_the_loss_is_that_of_the_text_given_the_prompt(kind: str):
    model = prompted(kind)
    labels = IDS.masked_fill(LEFT.flip(1) == 0, -100)
    with torch.no_grad():
        loss = model(IDS, attention_mask=LEFT.flip(1), labels=labels).loss
        predicted = model(IDS, attention_mask=LEFT.flip(1)).logits[:, :-1].log_softmax(dim=-1)
    real = (labels[:, 1:] != -100).nonzero().tolist()
    by_hand = -sum(predicted[row, place, IDS[row, place + 1]] for row, place in real) / len(real)
    assert torch.allclose(loss, by_hand)


@every_method
def test_only_the_prompt_trains(kind: str):
    model = prompted(kind).train()
    model(IDS, labels=IDS).loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {f"soft_prompt.{name}" for name, _ in model.soft_prompt.named_parameters()}
    assert all(p.grad.norm() > 0 for p in model.soft_prompt.parameters())


def test_how_many_numbers_train():
    d, kv, n_layers, n = 40, 2 * 12, 2, N  # qwen3: two key-value heads of 12
    mlp = d * 9 + 9 + 9 * 9 + 9 + 9 * d + d
    lstm = 2 * (4 * d * (d + d + 2) + 4 * d * (2 * d + d + 2)) + 4 * d * d + 2 * d + 2 * d * d + d
    expected = (
        n * d,
        n * d + mlp,
        n * d + lstm,
        n * n_layers * 2 * kv,
        n * kv + kv * 5 + 5 + 5 * n_layers * 2 * kv + n_layers * 2 * kv,
    )
    for kind, trainable in zip(METHODS, expected, strict=True):
        model = prompted(kind, "qwen3")
        assert count_parameters(model).trainable == trainable
        # What serves: the tokens alone.
        served = n * n_layers * 2 * kv if "prefix" in kind else n * d
        assert count_parameters(drop_encoder(model)).trainable == served


@every_model
@every_method
def test_without_it_the_base_answers_bit_for_bit(kind: str, name: str):
    model, base = prompted(kind, name), logits(build(name))
    with_prompt = logits(model)
    assert not torch.allclose(with_prompt, base, atol=1e-3)
    with adapter_disabled(model):
        with pytest.raises(KeyError), adapter_disabled(model):
            raise KeyError
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), with_prompt)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), with_prompt)
    twin.soft_prompt.encoder.weight.data.mul_(-1)
    assert torch.equal(logits(model), with_prompt)
    assert not torch.allclose(logits(twin), with_prompt, atol=1e-3)
    for carrier in (twin, model):
        assert torch.equal(logits(remove(carrier)), base)
        assert not hooks_of(carrier)
        assert carrier.state_dict().keys() == build(name).state_dict().keys()
    assert torch.equal(logits(apply(model, LoRAConfig(rank=2))), base)


def test_where_prompt_tuning_starts():
    model = build()
    embeddings = model.get_input_embeddings().weight.detach()
    three = PromptTuningConfig(num_virtual_tokens=5, init="text", init_token_ids=(9, 4, 60))
    prompt = three.make(model).encoder.weight
    assert torch.equal(prompt, embeddings[[9, 4, 60, 9, 4]])
    prompt.data.zero_()
    assert embeddings[9].any()
    torch.manual_seed(0)
    drawn = METHODS["prompt"].make(model).encoder.weight
    assert all((embeddings == token).all(dim=1).any() for token in drawn)
    config = PromptTuningConfig(num_virtual_tokens=20, init="random")
    spread = config.make(model).encoder.weight
    assert 0.45 < spread.abs().max() <= 0.5
    assert abs(spread.mean()) < 0.05
    tokenizer = load_tokenizer("embedded")
    ids = tokenizer("Name the topic:", add_special_tokens=False)["input_ids"]
    config = PromptTuningConfig.from_text(tokenizer, "Name the topic:")
    assert (config.num_virtual_tokens, config.init_token_ids) == (len(ids), tuple(ids))
    with pytest.raises(ValueError, match=f"text has {len(ids)} tokens and must have at most num_"):
        PromptTuningConfig.from_text(tokenizer, "Name the topic:", num_virtual_tokens=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PrefixTuningConfig(num_virtual_tokens=0),
            "num_virtual_tokens=0 must be in 1..65536",
        ),
        (
            lambda: PromptTuningConfig(init="zero"),
            "init='zero' must be one of random, vo",
        ),
        (lambda: PromptTuningConfig(init="text"), "'text' with 0 init_token_ids: a text must have"),
        (lambda: PromptTuningConfig(init_token_ids=(1,)), "only a text has any"),
        (lambda: PTuningConfig(encoder="gru"), "encoder='gru' must be one of mlp, lstm"),
        (lambda: PTuningConfig(hidden_size=0), "hidden_size=0 must be in 1..65536"),
        (lambda: PTuningConfig(num_layers=0), "num_layers=0 must be in 1..128"),
        (lambda: PTuningConfig(dropout=1.0), "dropout=1.0 must be at least 0 and below 1"),
        (lambda: PrefixTuningConfig(hidden_size=-1), "hidden_size=-1 must be in 1..65536"),
        (
            lambda: PromptTuningConfig(init="text", init_token_ids=(-1,)),
            "init_token_ids=-1 must be at least 0",
        ),
    ],
)
def test_bad_settings(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            PTuningConfig(num_virtual_tokens=32),
            "num_virtual_tokens=32 must be below the model's con",
        ),
        (
            PromptTuningConfig(init="text", init_token_ids=(61,)),
            "must be below the vocabulary's",
        ),
    ],
)
def test_what_does_not_fit_leaves_the_model_as_it_was(config, message: str):
    model = build("gpt2")
    with pytest.raises(ValueError, match=message):
        apply(model, config)
    assert all(p.requires_grad for p in model.parameters())
    assert not hooks_of(model)


@every_method
def test_inputs_before_which_it_cannot_stand(kind: str):
    model = prompted(kind, "gpt2")
    text = torch.ones(1, 29, dtype=torch.long)
    with pytest.raises(
        ValueError, match="4 places before a text of 29 tokens must fit the model's context of 32"
    ):
        model(text)
    cache = model(text[:, :28]).past_key_values
    with pytest.raises(ValueError, match="32 places before a text of 1 tokens"):
        model(text[:, :1], past_key_values=cache)
    packed = torch.tensor([[0, 1, 2, 0, 1]])
    with pytest.raises(ValueError, match="a packed row holds several texts"):
        model(text[:, :5], position_ids=packed)
    with pytest.raises(ValueError, match=r"attention_mask has 4 dimensions and must be \(batch"):
        model(text[:, :5], attention_mask=torch.ones(1, 1, 5, 5))
    with pytest.raises(ValueError, match="soft_prompt carries an adapter already: `remove` it"):
        apply(model, LoRAConfig(rank=2))
    with pytest.raises(ValueError, match="a soft prompt changes no weight"):
        merge(model)


def test_a_trunk_without_a_cache_takes_prompts_and_no_prefix():
    config = DistilBertConfig(
        vocab_size=61,
        dim=24,
        n_layers=2,
        n_heads=3,
        hidden_dim=30,
        max_position_embeddings=40,
        num_labels=3,
    )
    model = DistilBertForTokenClassification(config).eval()
    base = logits(model)
    with pytest.raises(ValueError, match="DistilBertForTokenClassification takes no past keys"):
        apply(model, PTuningV2Config())
    assert torch.equal(logits(model), base)
    apply(model, METHODS["prompt"])
    assert logits(model).shape == base.shape
    assert not torch.allclose(logits(model), base, atol=1e-3)
    cache = StaticCache(build().config, max_cache_len=30)
    with pytest.raises(ValueError, match="a cache of type StaticCache must be a DynamicCache"):
        prompted("prefix")(IDS, past_key_values=cache)
