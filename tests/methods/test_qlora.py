"""Composition: every method on a model whose weights are stored in four bits."""

import pytest
import torch
from torch import nn

from course_utils.methods import apply, count_parameters, load_adapter, merge, save_adapter, unmerge
from course_utils.methods.dora import DoRAConfig, DoRALinear
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.lora_xs import LoRAXSConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.tiny_lora import TinyLoRAConfig
from course_utils.quantization import NF4Linear, quantize_model
from tests.methods.adapters import MODELS, build, disturb, logits

CONFIGS = {
    "QLoRA": LoRAConfig(rank=3),
    "QDoRA": DoRAConfig(rank=3),
    "QDyLoRA": DyLoRAConfig(rank=3),
    "QNOLA": NOLAConfig(rank=3, n_bases=8),
    "LoRA-XS": LoRAXSConfig(rank=3),
    "TinyLoRA": TinyLoRAConfig(weight_tying=0.5),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_fresh_adapter_changes_nothing_and_merging_keeps_the_logits(name: str, kind: str):
    base = logits(quantize_model(build(name)))
    assert (base - logits(build(name))).abs().max() > 1e-4
    model = apply(quantize_model(build(name)), CONFIGS[kind])
    assert (logits(model) - base).abs().max() < 1e-6
    adapted = logits(disturb(model))
    assert (logits(merge(model)) - adapted).abs().max() < 1e-5
    assert torch.equal(logits(unmerge(model)), adapted)


def test_merging_into_four_bits_costs_another_rounding():
    model = disturb(apply(quantize_model(build()), LoRAConfig(rank=3)))
    adapted = logits(model)
    assert not any(isinstance(m.merged, NF4Linear) for m in adapted_layers(merge(model)).values())
    merge(unmerge(model), requantize=True)
    assert all(isinstance(m.merged, NF4Linear) for m in adapted_layers(model).values())
    off = (logits(model) - adapted).abs().max()
    assert 1e-3 < off < adapted.abs().max()


def test_only_the_adapter_trains_and_the_loss_falls():
    model = apply(quantize_model(build()), LoRAConfig(rank=4))
    assert count_parameters(model).share < 0.5
    ids = torch.randint(1, 61, (4, 12))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


def test_an_adapter_trained_on_four_bits_loads_on_either_base(tmp_path):
    model = disturb(apply(quantize_model(build()), LoRAConfig(rank=3)))
    save_adapter(model, tmp_path)
    assert torch.equal(logits(load_adapter(quantize_model(build()), tmp_path)), logits(model))
    plain = logits(load_adapter(build(), tmp_path))
    assert (plain - logits(model)).abs().max() < (plain - logits(build())).abs().max()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_codes_and_scales_stay_and_merging_works(kind: str, dtype: torch.dtype):
    model = quantize_model(build())
    layer = next(m for m in model.modules() if isinstance(m, NF4Linear))
    before = layer.dequantize()
    model.to(dtype)
    assert layer.dequantize().dtype == dtype
    assert torch.equal(layer.dequantize(), before.to(dtype))
    merge(disturb(apply(model, CONFIGS[kind])))
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("bias", [True, False])
def test_dropout_in_qdora_keeps_no_restored_weight_and_takes_16_bits(bias: bool):
    layer = DoRALinear(NF4Linear(nn.Linear(96, 64, bias=bias)), rank=2, alpha=2, dropout=0.2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(torch.randn(2, 96, requires_grad=True)).sum().backward()
    assert (64, 96) not in [tuple(shape) for shape in kept]
    half = layer.to(torch.bfloat16)
    assert half(torch.randn(2, 96, dtype=torch.bfloat16)).isfinite().all()


def test_rows_that_are_rounded_to_zero_do_not_become_nan():
    base = nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        base.weight[1] *= 1e-3
    layer = DoRALinear(NF4Linear(base), rank=2, alpha=2)
    assert not layer.base.dequantize()[1].any()
    assert layer(torch.ones(1, 16)).isfinite().all()
