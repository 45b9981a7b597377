"""What the blocks keep for the backward pass."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from course_utils.measure import measure_training_step
from course_utils.memory import (
    Architecture,
    BlockTraining,
    Trained,
    estimate,
    known_architectures,
)
from course_utils.methods import (
    BottleneckConfig,
    FrozenFineTuning,
    FullFineTuning,
    LoRAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
)
from tests.memory.steps import Case, build, check, cost, make_batch, predict, prepare, tied


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


def test_frozen_blocks_keep_nothing() -> None:
    predicted = cost(FrozenFineTuning(last_n_layers=2, train_head=False))
    assert predicted.layers_bytes[:-2] == (0,) * (tied().n_layers - 2)
    assert min(predicted.layers_bytes[-2:]) > 0
    deeper = replace(tied(), n_layers=2 * tied().n_layers)
    same = cost(FrozenFineTuning(last_n_layers=2, train_head=False), deeper)
    assert same.activations_bytes == predicted.activations_bytes


def test_the_rotation_is_kept_where_a_gradient_first_enters_attention() -> None:
    # Adapters behind the feed-forward part alone: in the first block none does.
    method = BottleneckConfig(bottleneck_size=4, placement="pfeiffer")
    layers = cost(method).layers_bytes
    assert layers[1] == layers[2] + 4 * 2 * 64 * tied().head_dim
    single = cost(method, replace(tied(), n_layers=1))
    assert single.layers_bytes == layers[:1]
    assert {tensor.part for tensor in single.block} == {"mlp"}


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


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", ["grouped", "qwen3"])
def test_padding_repeats_keys_and_values_and_keeps_the_mask(shape: str, attention: str) -> None:
    check(Case(shape=shape, attention=attention, is_padded=True))
    check(Case(shape=shape, attention=attention, is_padded=True, checkpointing=True))


def test_a_soft_prompts_network_keeps_what_it_says() -> None:
    for method in (PromptTuningConfig(num_virtual_tokens=4), PrefixTuningConfig()):
        plain = method.footprint(tied())
        more = SimpleNamespace(footprint=lambda _, plain=plain: replace(plain, prompt_keeps=1000))
        assert cost(more).outer_bytes == cost(method).outer_bytes + 4000
        assert cost(more).layers_bytes == cost(method).layers_bytes


def test_soft_prompts_need_gradients_down_to_the_first_block() -> None:
    class Prompt:
        def footprint(self, architecture: Architecture) -> Trained:
            blocks = (BlockTraining(),) * architecture.n_layers
            return Trained(blocks=blocks, inputs_need_gradients=True)

    predicted = cost(Prompt())
    assert len(set(predicted.layers_bytes[1:])) == 1
    assert min(predicted.layers_bytes) > 0
    assert predicted.gradients_bytes == 0
