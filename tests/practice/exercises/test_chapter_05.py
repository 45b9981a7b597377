"""Chapter 05's checks take every right way of writing an answer, and agree with the package.

That the solutions pass and the listed wrong answers do not is in ``test_checks``.
"""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, linear, relu
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.methods import apply, count_parameters
from course_utils.methods.bottleneck import BottleneckAdapter, BottleneckConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.practice.exercises import attempt
from course_utils.practice.exercises.chapter_05 import AVERAGE, COUNT, FOLD, FORWARD, MATCH, counts
from course_utils.practice.exercises.chapter_05.reference import adapt, draw_adapter
from course_utils.practice.exercises.material import draw
from tests.practice.exercises.verdicts import is_correct, message


def by_package(h, D, b, U, c, scaling):
    adapter = BottleneckAdapter(D.shape[1], len(D), activation="relu", scaling=scaling)
    values = {"down.weight": D, "down.bias": b, "up.weight": U, "up.bias": c}
    adapter.load_state_dict(values)
    return adapter(h)


def by_einsum(h, D, b, U, c, scaling):
    inner = (torch.einsum("...d,md->...m", h, D) + b).clamp(min=0)
    return scaling * (torch.einsum("...m,dm->...d", inner, U) + c) + h


def by_linear(h, D, b, U, c, scaling):
    return torch.add(h, linear(relu(linear(h, D, b)), U, c), alpha=scaling)


def in_place(h, D, b, U, c, scaling):
    h += scaling * linear(relu(linear(h, D, b)), U, c)
    return h


def test_the_forward_pass_may_be_written_in_many_ways():
    assert is_correct(FORWARD, by_package, by_einsum, by_linear, in_place)


def test_only_a_square_layer_hides_a_transpose():
    message_of_square = message(FORWARD, lambda h, D, *rest: FORWARD.solution(h, D.T, *rest))
    assert "only a square one hides" in message_of_square


@pytest.mark.parametrize("as_pair", [tuple, list, torch.tensor])
def test_the_counts_may_be_any_pair(as_pair):
    assert is_correct(COUNT, lambda n, d, m: as_pair(COUNT.solution(n, d, m)))


def test_the_counts_by_hand():
    # Down 100 x 3 + 3, up 3 x 100 + 100: 703 an adapter, four layers.
    assert COUNT.solution(4, 100, 3) == (8 * 703, 4 * 703)
    assert COUNT.solution(6, 256, 16) == (101_568, 50_784)


def trained(config, n_kv=2):
    shape = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=n_kv,
    )
    return count_parameters(apply(LlamaForCausalLM(shape), config)).trainable


def test_the_counts_are_those_of_the_package():
    counted = tuple(
        trained(BottleneckConfig(bottleneck_size=5, placement=placement))
        for placement in ("houlsby", "pfeiffer")
    )
    assert COUNT.solution(3, 32, 5) == counted


def test_the_matched_size_is_the_last_one_within_the_budget_on_a_real_model():
    m = MATCH.solution(4, 32, 80, 16)
    budget = trained(LoRAConfig(rank=4))
    assert trained(BottleneckConfig(bottleneck_size=m)) <= budget
    assert trained(BottleneckConfig(bottleneck_size=m + 1)) > budget


def test_the_size_may_be_searched_for():
    def by_search(rank, d, f, k):
        lora = rank * (2 * 2 * d + 2 * (d + k) + 3 * (d + f))
        sizes = itertools.takewhile(lambda m: 2 * (2 * d * m + d + m) <= lora, itertools.count(1))
        return max(sizes)

    assert is_correct(MATCH, by_search, lambda *block: float(MATCH.solution(*block)))


def test_all_named_mistakes_of_the_size_are_told_apart():
    rank, d, f, k = counts._BLOCKS[0]
    lora = counts._lora(rank, d, f, k)
    sizes = [counts._largest(rank * total(d, f, k), d) for total, _ in counts._WRONG_SUMS]
    sizes += [lora // (4 * d), (lora - d) // (2 * d + 1), lora // (2 * d)]
    right = MATCH.solution(rank, d, f, k)
    assert len({right, right + 1, *sizes}) == len(sizes) + 2


def second_first(first, second, share):
    return AVERAGE.solution(second, first, 1 - share)


def test_the_mean_may_have_its_units_in_any_order():
    def interleaved(first, second, share):
        D, b, U, c = AVERAGE.solution(first, second, share)
        order = torch.randperm(len(b), generator=torch.Generator().manual_seed(0))
        return D[order], b[order], U[:, order], c

    def padded_with_idle_units(first, second, share):
        D, b, U, c = AVERAGE.solution(first, second, share)
        return torch.cat([D, D]), torch.cat([b, b]), torch.cat([U, 0 * U], dim=1), c

    assert is_correct(AVERAGE, second_first, interleaved, padded_with_idle_units)


def test_the_mean_of_the_weights_is_another_function():
    first, second = draw_adapter(6, 3, 1), draw_adapter(6, 3, 5)
    h, weights = draw(4, 6), [(one + other) / 2 for one, other in zip(first, second, strict=True)]
    mean = (adapt(h, first, gelu) + adapt(h, second, gelu)) / 2
    assert torch.allclose(adapt(h, AVERAGE.solution(first, second, 0.5), gelu), mean, atol=1e-5)
    assert (adapt(h, weights, gelu) - mean).abs().max() > 0.5


def one_after_another(W, bias, adapter, scaling):
    """Read weight and bias off what the two do to the unit vectors and to zero."""
    inputs = torch.cat([torch.zeros(1, W.shape[1]), torch.eye(W.shape[1])])
    outputs = adapt(inputs @ W.T + bias, adapter, nn.Identity(), scaling)
    return (outputs[1:] - outputs[0]).T, outputs[0]


def by_parts(W, bias, adapter, scaling):
    D, b, U, c = adapter
    return [W + scaling * U @ (D @ W), bias + scaling * linear(D @ bias + b, U, c)]


def test_the_fold_may_be_written_in_many_ways():
    assert is_correct(FOLD, one_after_another, by_parts)


def test_the_folded_layer_gives_what_the_two_gave():
    W, bias, adapter, x = draw(5, 3), draw(5, seed=9), draw_adapter(5, 2), draw(7, 3, seed=8)
    weight, folded_bias = FOLD.solution(W, bias, adapter, 2.0)
    expected = adapt(x @ W.T + bias, adapter, nn.Identity(), 2.0)
    torch.testing.assert_close(x @ weight.T + folded_bias, expected)


@pytest.mark.parametrize("check", [COUNT, AVERAGE, FOLD], ids=lambda check: check.name)
def test_a_part_still_open_is_not_an_attempt(check):
    assert attempt(check, lambda *x: (0.5, ...)).outcome == "not attempted"
