"""Chapter 06's checks take every right way of writing an answer, and agree with the libraries.

That the solutions pass and the listed wrong answers do not is in ``test_checks``.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from course_utils.methods import apply, remove
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.practice.exercises import attempt
from course_utils.practice.exercises.chapter_06 import BATCH, CACHE, MIXTURE, PREFIX, START, sizes
from course_utils.practice.exercises.material import draw
from tests.practice.exercises.verdicts import is_correct, message


def by_pad(mask, labels, n):
    mask = pad(mask, (n, 0), value=1)
    # As transformers' generate does it: 1 at the padding, which nobody reads.
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    return mask, positions, pad(labels, (n, 0), value=-100)


def by_lists(mask, labels, n):
    masks, positions = [[1] * n + row for row in mask.tolist()], []
    for row in masks:
        positions.append([sum(row[:place]) for place in range(len(row))])
    return masks, positions, [[-100] * n + row for row in labels.tolist()]


def with_numpy(mask, labels, n):
    mask, positions, labels = BATCH.solution(mask, labels, n)
    return mask.bool().numpy(), positions.float().numpy(), np.asarray(labels)


def test_the_batch_may_be_written_in_many_ways():
    assert is_correct(BATCH, by_pad, by_lists, with_numpy)


def test_positions_without_a_look_at_the_padding_pass_on_the_right_and_fail_on_the_left():
    def by_arange(mask, labels, n):
        mask, _, labels = BATCH.solution(mask, labels, n)
        return mask, torch.arange(mask.shape[1]).expand_as(mask), labels

    said = message(BATCH, by_arange)
    assert said.startswith("With padding on the left, the positions")


def test_a_single_wrong_place_is_named():
    def one_off(mask, labels, n):
        mask, positions, labels = BATCH.solution(mask, labels, n)
        positions[1, -1] += 1
        return mask, positions, labels

    assert "at place 6 of row 1, counted from 0, is 7: it should be 6" in message(BATCH, one_off)


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def test_the_batch_gives_every_row_what_it_gets_alone(llama):
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask, prompt = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]), 0.1 * draw(2, 32)
    long_mask, positions, _ = BATCH.solution(mask, ids, 2)
    embed = llama.get_input_embeddings()
    together = llama(
        inputs_embeds=torch.cat([prompt.expand(2, -1, -1), embed(ids)], 1),
        attention_mask=long_mask,
        position_ids=positions,
    ).logits
    alone = llama(inputs_embeds=torch.cat([prompt, embed(ids[0, 2:])])[None]).logits
    torch.testing.assert_close(together[:1, -3:], alone[:, -3:])


def test_the_prefix_has_the_shape_that_the_package_gives_it(llama):
    shape, count = PREFIX.solution(llama.config, 5)
    model = apply(llama, PrefixTuningConfig(num_virtual_tokens=5))
    assert tuple(model.soft_prompt.keys_and_values().shape) == shape
    assert sum(p.numel() for p in model.soft_prompt.parameters()) == count
    remove(model)


def test_the_shape_may_come_as_a_list_or_a_size():
    def as_size(config, n):
        shape, count = PREFIX.solution(config, n)
        return torch.Size(shape), float(count)

    def as_lists(config, n):
        shape, count = PREFIX.solution(config, n)
        return [[*shape], torch.tensor(count)]

    assert is_correct(PREFIX, as_size, as_lists)


def test_the_prefix_by_hand():
    llama_1b, qwen, embedded = sizes._configs()
    assert PREFIX.solution(qwen, 20) == ((28, 2, 8, 20, 128), 1_146_880)
    assert PREFIX.solution(embedded, 8)[1] == 6 * 2 * 256 * 8
    assert llama_1b.hidden_size == llama_1b.num_attention_heads * llama_1b.head_dim


@torch.no_grad()
def test_the_cache_grows_by_these_bytes(llama):
    n, batch = 4, 3
    expected, of_prompt = CACHE.solution(llama.config, n, batch, 4)
    cache = DynamicCache()
    llama(inputs_embeds=draw(batch, n, 32), past_key_values=cache)
    parts = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    assert sum(part.numel() * part.element_size() for part in parts) == expected == of_prompt


def in_kilobytes(config, n, batch, n_bytes):
    return tuple(x / 1000 for x in CACHE.solution(config, n, batch, n_bytes))


def test_the_unit_of_the_cache_is_the_byte():
    assert "look at the unit" in message(CACHE, in_kilobytes)
    assert is_correct(CACHE, lambda *x: torch.tensor(CACHE.solution(*x)))


def by_torch(q, keys, values, prefix_keys, prefix_values):
    everything = torch.cat([prefix_keys, keys]), torch.cat([prefix_values, values])
    weights = (everything[0] @ q / math.sqrt(len(q))).softmax(0)
    output = scaled_dot_product_attention(q[None], *everything)[0]
    return weights[: len(prefix_keys)].sum(), output


def by_exponentials(q, keys, values, prefix_keys, prefix_values):
    before, after = ((part @ q / len(q) ** 0.5).exp() for part in (prefix_keys, keys))
    total = before.sum() + after.sum()
    output = (before @ prefix_values + after @ values) / total
    return [(before.sum() / total).item(), output]


def test_the_mixture_may_be_written_in_many_ways():
    assert is_correct(MIXTURE, by_torch, by_exponentials)


def test_the_start_may_be_written_in_many_ways():
    def by_repeat(embedding, ids, n):
        if len(ids) > n:
            raise ValueError("too long")
        return embedding.data[ids].repeat(n, 1)[:n].clone()

    @torch.no_grad()
    def as_parameter(embedding, ids, n):
        if len(ids) > n:
            raise ValueError("too long")
        rows = torch.stack([embedding[ids[i % len(ids)]] for i in range(n)])
        return torch.nn.Parameter(rows)

    def by_package(embedding, ids, n):
        config = PromptTuningConfig(num_virtual_tokens=n, init="text", init_token_ids=tuple(ids))
        model = torch.nn.Module()
        model.get_input_embeddings = lambda: torch.nn.Embedding.from_pretrained(embedding.data)
        return config.make(model).encoder().detach()

    assert is_correct(START, by_repeat, as_parameter, by_package)


def test_another_error_than_a_value_error_is_shown():
    def asserts(embedding, ids, n):
        assert len(ids) <= n, "too long"
        return START.solution(embedding, ids, n)

    verdict = attempt(START, asserts)
    assert verdict.outcome == "error"
    assert "AssertionError" in verdict.message


@pytest.mark.parametrize("check", [BATCH, PREFIX, MIXTURE, CACHE], ids=lambda check: check.name)
def test_a_part_still_open_is_not_an_attempt(check):
    assert attempt(check, lambda *x: (0.5, ...)).outcome == "not attempted"
    assert "things" in message(check, lambda *x: 0.5)
