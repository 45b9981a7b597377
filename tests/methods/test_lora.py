import math

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification

from course_utils.memory import architecture_of
from course_utils.methods import (
    adapter_disabled,
    apply,
    count_parameters,
    merge,
    remove,
    unmerge,
)
from course_utils.methods.dora import DoRAConfig, DoRALinear
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.full import FullFineTuning
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig, LoRALinear
from course_utils.quantization import quantize_model
from tests.methods.adapters import IDS, MODELS, SHAPE, build, disturb, logits

CONFIGS = {
    "LoRA": LoRAConfig(rank=3),
    "rsLoRA": LoRAConfig(rank=3, use_rslora=True),
    "DoRA": DoRAConfig(rank=3),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_fresh_adapter_changes_nothing(name: str, kind: str):
    before = logits(build(name))
    after = logits(apply(build(name), CONFIGS[kind]))
    assert (after - before).abs().max() < 1e-6


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_merged_computes_the_same_and_unmerged_returns_bit_for_bit(name: str, kind: str):
    model = disturb(apply(build(name), CONFIGS[kind]))
    adapted = logits(model)
    assert (adapted - logits(build(name))).abs().max() > 1e-3
    assert (logits(merge(model)) - adapted).abs().max() < 1e-5
    assert torch.equal(logits(unmerge(model)), adapted)


@pytest.mark.parametrize("name", MODELS)
def test_removing_leaves_the_base_without_a_trace(name: str):
    model = remove(disturb(apply(build(name), LoRAConfig(rank=2))))
    assert torch.equal(logits(model), logits(build(name)))
    assert [n for n, _ in model.named_parameters()] == [
        n for n, _ in build(name).named_parameters()
    ]


def test_removing_a_merged_adapter_leaves_plain_layers_that_have_it():
    model = disturb(apply(build(), LoRAConfig(rank=2)))
    adapted = logits(model)
    plain = remove(merge(model))
    assert not adapted_layers(plain)
    assert torch.allclose(logits(plain), adapted, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_the_papers_equation(bias: bool):
    layer = LoRALinear(nn.Linear(5, 7, bias=bias), rank=2, alpha=6)
    nn.init.normal_(layer.B)
    x = torch.randn(4, 3, 5)
    expected = layer.base(x) + 6 / 2 * x @ layer.A.T @ layer.B.T
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert torch.linalg.matrix_rank(layer.adapted_weight() - layer.base.weight) == 2


def test_at_the_first_step_only_b_gets_a_gradient():
    layer = LoRALinear(nn.Linear(5, 7), rank=2, alpha=2)
    layer(torch.randn(4, 5)).square().sum().backward()
    assert not layer.A.grad.any()
    assert layer.B.grad.any()
    assert layer.base.weight.grad is None


def test_rslora_divides_by_the_root_of_the_rank():
    base = nn.Linear(16, 16)
    assert LoRALinear(base, rank=16, alpha=8).scaling == 0.5
    assert LoRALinear(base, rank=16, alpha=8, use_rslora=True).scaling == 8 / math.sqrt(16)


def test_dropout_is_on_the_update_alone_and_only_in_training():
    layer = LoRALinear(nn.Linear(50, 7), rank=2, alpha=2, dropout=0.5)
    nn.init.normal_(layer.B)
    x = torch.randn(4, 50)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
    nn.init.zeros_(layer.train().B)
    assert torch.equal(layer(x), layer.base(x))


def test_doras_rows_have_the_trained_lengths():
    layer = DoRALinear(nn.Linear(9, 7), rank=2, alpha=2)
    nn.init.normal_(layer.B)
    with torch.no_grad():
        layer.magnitude.mul_(torch.arange(1.0, 8.0))
    assert torch.allclose(layer.adapted_weight().norm(dim=1), layer.magnitude, rtol=1e-5)


def doras_gradients(layer: DoRALinear, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output of the layer, and the gradients of m, A, B and x under a loss that is not linear."""
    leaves = (layer.magnitude, layer.A, layer.B, x)
    output = layer(x)
    return output, *torch.autograd.grad(output.pow(3).sum(), leaves)


def doras_equation(layer: DoRALinear, x: torch.Tensor, detach: bool) -> tuple[torch.Tensor, ...]:
    """The same of m (W + s B A) / ||W + s B A||, written out."""
    leaves = (layer.magnitude, layer.A, layer.B, x)
    m, A, B, _ = leaves
    V = layer.base.weight + layer.scaling * B @ A
    norm = V.square().sum(dim=1, keepdim=True).sqrt()
    weight = m[:, None] * V / (norm.detach() if detach else norm)
    output = nn.functional.linear(x, weight, layer.base.bias)
    return output, *torch.autograd.grad(output.pow(3).sum(), leaves)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("detach_norm", [True, False])
def test_doras_gradient_is_that_of_the_equation(detach_norm: bool, bias: bool):
    torch.manual_seed(0)
    base = nn.Linear(9, 7, bias=bias, dtype=torch.float64)
    layer = DoRALinear(base, rank=3, alpha=5, use_rslora=True, detach_norm=detach_norm)
    nn.init.normal_(layer.B)
    x = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    for ours, written in zip(
        doras_gradients(layer, x), doras_equation(layer, x, detach_norm), strict=True
    ):
        assert torch.allclose(ours, written, rtol=1e-12, atol=1e-12)


def test_doras_norm_changes_the_gradients_of_a_and_b_alone():
    torch.manual_seed(0)
    layer = DoRALinear(nn.Linear(9, 7, dtype=torch.float64), rank=3, alpha=5)
    nn.init.normal_(layer.B)
    x = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    constant = doras_gradients(layer, x)
    layer.detach_norm = False
    output, m, A, B, at_x = doras_gradients(layer, x)
    for same, before in zip(
        (output, m, at_x), (constant[0], constant[1], constant[4]), strict=True
    ):
        torch.testing.assert_close(same, before)
    assert (A - constant[2]).norm() > 0.1 * A.norm()
    assert (B - constant[3]).norm() > 0.1 * B.norm()


def test_doras_option_reaches_its_layers():
    for detach_norm in (True, False):
        model = apply(build(), DoRAConfig(rank=2, detach_norm=detach_norm))
        assert {layer.detach_norm for layer in adapted_layers(model).values()} == {detach_norm}
    assert DoRAConfig().detach_norm


def test_dora_with_dropout_keeps_the_base_and_its_mean():
    torch.manual_seed(0)
    layer = DoRALinear(nn.Linear(60, 4), rank=2, alpha=2, dropout=0.3)
    nn.init.normal_(layer.B, std=0.1)
    x = torch.randn(1, 60).expand(20_000, 60)
    assert torch.allclose(layer(x).mean(0), layer.eval()(x[:1])[0], atol=0.02)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
def test_parameters_are_those_the_estimate_counts(targets: str | tuple[str, ...]):
    model, config = build(), LoRAConfig(rank=3, target_modules=targets)
    architecture = architecture_of(model)
    trainable = count_parameters(apply(model, config)).trainable
    assert trainable == sum(config.footprint(architecture).sizes(architecture))


def test_a_classifiers_head_goes_on_training():
    model = LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=3))
    apply(model, LoRAConfig(rank=2, target_modules=("q_proj",)))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "score.weight" in trained
    assert all(name == "score.weight" or name.endswith((".A", ".B")) for name in trained)
    assert not isinstance(model.score, LoRALinear)


def test_a_16_bit_base_gets_a_float32_update():
    layer = LoRALinear(nn.Linear(8, 8).to(torch.bfloat16), rank=2, alpha=2)
    assert layer.A.dtype == layer.B.dtype == torch.float32
    assert layer(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert layer.merge().eval()(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"target_modules": "q_proj"}, "'q_proj' must be 'all-linear' or a tuple"),
        ({"target_modules": ()}, r"target_modules=\(\) must be one or more names"),
        ({"alpha": 0}, "alpha=0 must be above 0"),
        ({"alpha": float("nan")}, "alpha=nan must be a finite number"),
    ],
)
def test_a_wrong_option_is_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        LoRAConfig(**options)


def test_a_rank_or_a_target_that_does_not_fit_leaves_the_model_alone():
    model = build()
    before = {name for name, p in model.named_parameters() if p.requires_grad}
    for config in (LoRAConfig(rank=41), LoRAConfig(target_modules=("q_proj", "query"))):
        with pytest.raises(ValueError, match=r"rank=41 must be in|'query' must be one of"):
            apply(model, config)
        assert not adapted_layers(model)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == before


def test_two_adapters_are_not_stacked_and_none_cannot_be_merged():
    model = build()
    for verb in (merge, unmerge, remove):
        with pytest.raises(ValueError, match="carries no adapter"):
            verb(model)
    apply(model, LoRAConfig(rank=2))
    for method in (LoRAConfig(rank=2), FullFineTuning()):
        with pytest.raises(ValueError, match="carries an adapter already: `remove` it first"):
            apply(model, method)
    with pytest.raises(ValueError, match="quantise the base first"):
        quantize_model(model)


@pytest.mark.parametrize("config", [LoRAConfig(rank=2), DoRAConfig(rank=2), DyLoRAConfig(rank=2)])
def test_a_merged_model_takes_its_mode_whole_and_trains_not_at_all(config: LoRAConfig):
    model = merge(disturb(apply(build(), config)))
    answer = logits(model)
    assert all(module.training for module in model.train().modules())
    with pytest.raises(ValueError, match="a merged adapter does not train: `unmerge`"):
        model(IDS)
    assert torch.equal(logits(model), answer)
    with adapter_disabled(model):
        model(IDS)
    unmerge(model)(IDS).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_an_adapter_takes_over_whether_the_model_trains():
    for is_training in (True, False):
        model = apply(build().train(is_training), LoRAConfig(rank=2, dropout=0.5))
        assert all(layer.training == is_training for layer in adapted_layers(model).values())


def test_weights_that_another_library_has_packed_are_refused():
    layer = nn.Linear(8, 8, bias=False)
    layer.weight = nn.Parameter(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"Linear stores its weight as torch\.uint8"):
        LoRALinear(layer, rank=2, alpha=2)
