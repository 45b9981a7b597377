import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from course_utils.methods import apply, count_parameters, save_adapter
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig, LoRALinear
from course_utils.methods.nola import NOLAConfig, NOLALinear
from course_utils.methods.storage.folder import TENSORS_FILE
from tests.methods.adapters import build, disturb


def layer_of(**options) -> NOLALinear:
    defaults = {"rank": 2, "alpha": 6, "n_bases": 5, "seed": 3}
    return NOLALinear(nn.Linear(9, 7), **(defaults | options))


def test_the_update_is_the_mixture_of_the_bases():
    layer = layer_of()
    nn.init.normal_(layer.b)
    A = sum(c * basis for c, basis in zip(layer.a, layer.A_bases, strict=True))
    B = sum(c * basis for c, basis in zip(layer.b, layer.B_bases, strict=True))
    x = torch.randn(3, 9)
    assert torch.allclose(layer(x), layer.base(x) + 6 / 2 * x @ A.T @ B.T, atol=1e-5)
    assert torch.linalg.matrix_rank(layer.adapted_weight() - layer.base.weight) == 2


def test_a_fresh_update_changes_nothing_and_its_coefficients_get_gradients():
    layer, x = layer_of(), torch.randn(3, 9)
    assert torch.equal(layer(x), layer.base(x))
    layer(x).square().sum().backward()
    assert layer.b.grad.any()
    trained = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert trained == {"a", "b"}


def test_the_bases_come_from_the_seed_and_differ_between_layers():
    assert torch.equal(layer_of().A_bases, layer_of().A_bases)
    assert not torch.equal(layer_of().A_bases, layer_of(seed=4).A_bases)
    first, second, *_ = adapted_layers(apply(build(), NOLAConfig(rank=2))).values()
    assert not torch.equal(first.A_bases, second.A_bases)


def test_a_fresh_mixture_has_the_variance_of_loras_a():
    nola = NOLALinear(nn.Linear(200, 300), rank=50, alpha=1, n_bases=64, seed=0)
    lora = LoRALinear(nn.Linear(200, 300), rank=50, alpha=1)
    spread = nola.a.square().mean().sqrt() * lora.A.std()
    assert nola.factors()[0].std().item() == pytest.approx(spread.item(), rel=0.05)


def test_what_trains_does_not_depend_on_the_layers_width():
    model = apply(build(), NOLAConfig(rank=4, n_bases=3))
    assert count_parameters(model).trainable == 2 * 3 * len(adapted_layers(model))


def test_the_file_holds_coefficients_only_and_is_smaller_than_lora_of_rank_1(tmp_path):
    nola = disturb(apply(build(), NOLAConfig(rank=4, n_bases=8)))
    lora = apply(build(), LoRAConfig(rank=1))
    sizes = [
        sum(
            t.numel()
            for t in load_file(save_adapter(model, tmp_path / name) / TENSORS_FILE).values()
        )
        for name, model in (("nola", nola), ("lora", lora))
    ]
    assert sizes[0] == 16 * len(adapted_layers(nola))
    assert sizes[0] < 0.2 * sizes[1]


def test_it_learns():
    torch.manual_seed(0)
    layer = NOLALinear(nn.Linear(16, 16), rank=4, alpha=4, n_bases=64, seed=0)
    x, y = torch.randn(64, 16), torch.randn(64, 16)
    optimizer = torch.optim.Adam([layer.a, layer.b], lr=3e-2)
    losses = []
    for _ in range(100):
        loss = (layer(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("options", [{"rank": 0}, {"n_bases": 0}])
def test_a_wrong_option_is_named(options: dict):
    with pytest.raises(ValueError, match="=0 must be"):
        NOLAConfig(**options)


def test_a_rank_too_large_is_named():
    with pytest.raises(ValueError, match="rank=8 must be in"):
        layer_of(rank=8)
