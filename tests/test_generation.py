from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from course_utils.generation import (
    encode_prompts,
    end_tokens,
    filter_logits,
    generate_tokens,
    is_end,
    position_ids,
)
from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_tokenizer
from tests.methods.adapters import MODELS, build, disturb

PAD, NONE = 0, -1
N_NEW = 12


@pytest.fixture(scope="module")
def prompts() -> tuple[Tensor, Tensor]:
    """Six prompts of 3 to 8 tokens, padded on the left."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 61, (6, 8), generator=generator)
    mask = (torch.arange(8) >= torch.arange(6)[:, None]).long()
    return ids.masked_fill(mask == 0, PAD), mask


def model_of(name: str) -> nn.Module:
    """A model whose adapter is no longer a no-op, and whose next token depends on the last ones."""
    model = build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim == 2 else 1)
    return disturb(apply(model, LoRAConfig(rank=2)))


def write(model: nn.Module, prompts: tuple[Tensor, Tensor], **options: object) -> Tensor:
    return generate_tokens(
        model,
        *prompts,
        **{
            "max_new_tokens": N_NEW,
            "eos_token_id": NONE,
            "pad_token_id": PAD,
        }
        | options,
    )


def an_end(model: nn.Module, prompts: tuple[Tensor, Tensor]) -> int:
    """A token at which greedy answers end at different places, one before the last."""
    written = write(model, prompts)
    for token in written.unique().tolist():
        ends = [row.index(token) if token in row else N_NEW for row in written.tolist()]
        if len(set(ends)) >= 2 and min(ends) < N_NEW - 2 and token != PAD:
            return token
    raise AssertionError("no such token")


@pytest.mark.parametrize("name", MODELS)
def test_greedy_writes_what_transformers_writes(name: str, prompts):
    model = model_of(name)
    end = an_end(model, prompts)
    ours = write(model, prompts, eos_token_id=end)
    ids, mask = prompts
    theirs = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=N_NEW,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=PAD,
    )[:, ids.shape[1] :]
    assert ours.tolist() == theirs.tolist()
    assert len(ours.unique()) > 4


@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_is_continued_as_if_it_were_alone(name: str, prompts):
    """Neither padding, nor the other rows, nor their leaving the batch can be noticed."""
    model = model_of(name)
    end = an_end(model, prompts)
    together = write(model, prompts, eos_token_id=end)
    for row, (ids, mask) in enumerate(zip(*prompts, strict=True)):
        alone = ids[mask == 1][None]
        expected = write(model, (alone, torch.ones_like(alone)), eos_token_id=end)[0]
        assert together[row, : len(expected)].tolist() == expected.tolist()
        assert (together[row, len(expected) :] == PAD).all()


def test_after_the_end_comes_padding_and_when_all_have_ended_nothing(prompts):
    model = model_of("llama")
    written = write(model, prompts)
    first = written[:, 0]
    assert write(model, prompts, eos_token_id=int(first[0]))[0].tolist()[1:] == [PAD] * (N_NEW - 1)
    one = tuple(tensor[:1] for tensor in prompts)
    assert write(model, one, eos_token_id=int(first[0])).tolist() == [[int(first[0])]]


def test_sampling_follows_its_generator_alone(prompts):
    model = model_of("llama")

    def sample(seed: int) -> list:
        generator = torch.Generator().manual_seed(seed)
        return write(model, prompts, temperature=1.0, generator=generator).tolist()

    before = torch.get_rng_state()
    assert sample(0) == sample(0) != sample(1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_the_model_says(temperature: float, prompts):
    model = model_of("llama")
    ids, mask = (tensor[:1] for tensor in prompts)
    with torch.no_grad():
        expected = (model(ids, attention_mask=mask).logits[0, -1] / temperature).softmax(-1)
    n = 4000
    many = ids.expand(n, -1), mask.expand(n, -1)
    drawn = write(
        model,
        many,
        max_new_tokens=1,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )
    shares = torch.bincount(drawn.flatten(), minlength=61) / n
    # Four standard deviations of a share of n draws, and half a draw.
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt() + 0.5 / n).all()


def test_a_temperature_near_zero_is_greedy(prompts):
    model = model_of("llama")
    cold = write(model, prompts, temperature=1e-7, generator=torch.Generator().manual_seed(0))
    assert cold.tolist() == write(model, prompts).tolist()
    assert write(model, prompts, temperature=5.0, top_k=1).tolist() == cold.tolist()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 5, 61, 100])
@pytest.mark.parametrize("top_p", [None, 1e-6, 0.3, 0.9, 1.0])
def test_the_same_tokens_may_be_drawn_as_in_transformers(temperature, top_k, top_p):
    logits = 3 * torch.randn(7, 61, generator=torch.Generator().manual_seed(0))
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p is not None and top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    ours = filter_logits(logits, temperature, top_k, top_p)
    assert torch.equal(ours.isinf(), expected.isinf())
    assert torch.allclose(ours, expected)


def test_positions_start_at_the_first_real_token():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 1, 1]]


def test_prompts_get_the_begin_token_and_padding_on_the_left():
    tokenizer = load_tokenizer("embedded")
    texts = ["The miller sleeps.", "The"]
    ids, mask = encode_prompts(tokenizer, texts)
    for row, text in enumerate(texts):
        expected = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
        assert ids[row, mask[row] == 1].tolist() == expected
    assert mask[1].tolist() == [0] * (ids.shape[1] - 2) + [1, 1]
    assert (ids[mask == 0] == tokenizer.pad_token_id).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"temperature": float("nan")}, "temperature=nan must be a finite number, at least 0"),
        ({"temperature": "1"}, "temperature='1' must be a finite number"),
        ({"temperature": True}, "temperature=True must be a finite number"),
        ({"max_new_tokens": 2.0}, "max_new_tokens=2.0 must be a whole number"),
        ({"max_new_tokens": 10**30}, "max_new_tokens=10+ must be at most"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_k": 2.5}, "top_k=2.5 must be a whole number"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p=1.5 must be above 0 and at most 1"),
        ({"eos_token_id": 2.5}, "eos_token_id=2.5 must be a whole number"),
        ({"eos_token_id": [2, None]}, "eos_token_id=None must be a whole number"),
        ({"pad_token_id": 61}, "pad_token_id=61 must be in 0..60"),
        ({"pad_token_id": None}, "pad_token_id=None must be a whole number, in 0..60"),
        ({"generator": 5}, "generator=5 must be a torch.Generator, or None"),
        (
            {"max_new_tokens": 25},
            "prompt 0 of 8 tokens and max_new_tokens=25 must fit the model's context of 32 tokens",
        ),
    ],
)
def test_options_out_of_range_are_told(options: dict, message: str, prompts):
    with pytest.raises(ValueError, match=message):
        write(build("gpt2"), prompts, **options)


def test_an_answer_may_fill_the_context(prompts):
    assert write(build("gpt2"), prompts, max_new_tokens=24).shape == (6, 24)


def test_prompts_that_cannot_be_continued_are_told(prompts):
    ids, mask = prompts
    empty, right = mask.clone(), mask.flip(1)
    empty[2] = 0
    with pytest.raises(ValueError, match="prompt 2 is empty: a prompt must have at least 1 token"):
        write(build(), (ids, empty))
    with pytest.raises(ValueError, match="prompt 1 is padded on the right"):
        write(build(), (ids, right))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, mask: (ids.tolist(), mask), r"input_ids=.* must be a tensor"),
        (lambda ids, mask: (ids[0], mask[0]), r"input_ids of shape \(8,\) must be \(batch, seq\)"),
        (
            lambda ids, mask: (ids, mask[:, :-1]),
            r"must be the same: input_ids \(6, 8\), .*\(6, 7\)",
        ),
        (lambda ids, mask: (ids[:0], mask[:0]), r"at least one number: input_ids \(0, 8\)"),
        (lambda ids, mask: (ids.float(), mask), r"input_ids of type torch.float32 must be whole"),
        (lambda ids, mask: (ids, mask * 0.5), r"attention_mask holds 0.5: it must be 0 or 1"),
        (
            lambda ids, mask: (ids + 61 * mask, mask),
            r"token \d+ of text 0 must be in 0..60, the model",
        ),
        (
            lambda ids, mask: (ids - mask.logical_not().long(), mask),
            "padding token -1 of text 1 must",
        ),
    ],
)
def test_prompts_of_another_kind_are_told(change, message: str, prompts):
    with pytest.raises(ValueError, match=message):
        write(build("gpt2"), change(*prompts))


def test_each_of_several_end_tokens_ends_an_answer(prompts):
    model = model_of("llama")
    end = an_end(model, prompts)
    other = next(t for t in write(model, prompts).unique().tolist() if t not in (end, PAD))
    free, ended = write(model, prompts), write(model, prompts, eos_token_id=[end, other])
    for before, after in zip(free.tolist(), ended.tolist(), strict=True):
        n = min([before.index(t) + 1 for t in (end, other) if t in before], default=N_NEW)
        assert after == (before[:n] + [PAD] * N_NEW)[: ended.shape[1]]
    assert write(model, prompts, eos_token_id=[end]).tolist() == (
        write(model, prompts, eos_token_id=end).tolist()
    )
    for nothing in (None, [], -1):
        assert torch.equal(write(model, prompts, eos_token_id=nothing), free)


def test_end_tokens_are_the_tokenizer_s_and_the_model_s():
    def ends(of_tokenizer: int | None, of_model: object) -> tuple[int, ...]:
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=of_model))
        return end_tokens(model, SimpleNamespace(eos_token_id=of_tokenizer))

    assert ends(2, None) == ends(2, 2) == ends(None, 2) == (2,)
    assert ends(9, [1, 9]) == (9, 1)
    assert ends(None, None) == ()
    assert is_end(torch.tensor([[9, 2, 1]]), ends(9, [1, 9])).tolist() == [[True, False, True]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_is_chosen_from_logits_that_are_not_finite(temperature, value, prompts):
    model = build()
    model.lm_head.register_forward_hook(lambda layer, inputs, logits: spoil(logits, value))
    with pytest.raises(ValueError, match=r"at \(4,.*\) is -?(nan|inf): nothing can be chosen"):
        write(model, prompts, temperature=temperature)


def spoil(logits: Tensor, value: float) -> Tensor:
    """Let one logit of row 4 be NaN or infinite; of -inf, which says "never", all of them."""
    logits = logits.clone()
    logits[4, ..., slice(None) if value < 0 else slice(3, 4)] = value
    return logits


def test_logits_of_minus_infinity_say_never(prompts):
    model = build()
    mask = torch.zeros(61).index_fill(0, torch.arange(5, 61), -torch.inf)
    model.lm_head.register_forward_hook(lambda layer, inputs, logits: logits + mask)
    for temperature in (0.0, 1.0):
        assert write(model, prompts, temperature=temperature).max() < 5


def test_a_tokenizer_without_padding_pads_with_its_end_token():
    tokenizer = load_tokenizer("embedded")
    expected, mask = encode_prompts(tokenizer, ["The miller sleeps.", "The"])
    tokenizer.pad_token = None
    ids, same = encode_prompts(tokenizer, ["The miller sleeps.", "The"])
    assert torch.equal(mask, same)
    assert torch.equal(ids[mask == 1], expected[mask == 1])
    assert (ids[mask == 0] == tokenizer.eos_token_id).all()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there are no prompts: at least 1 is needed"),
        ("The", "prompts='The' must be a list"),
        (None, "prompts=None must be a list"),
        (["The", 5], r"prompts\[1\]=5 must be a text"),
        (["\ud800"], "half of a character"),
    ],
)
def test_prompts_are_texts(prompts: object, message: str):
    with pytest.raises(ValueError, match=message):
        encode_prompts(load_tokenizer("embedded"), prompts)


def test_a_model_that_keeps_no_keys_is_told(prompts):
    config = MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1)
    with pytest.raises(ValueError, match="MambaForCausalLM keeps no keys and values"):
        write(MambaForCausalLM(config).eval(), prompts)
