from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from course_utils.methods import apply, count_parameters, load_adapter, save_adapter
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.lora_xs import LoRAXSConfig, LoRAXSLinear, singular_triplets
from course_utils.methods.storage.folder import TENSORS_FILE
from tests.methods.adapters import build, disturb, logits


def layer_of(d_in: int = 9, d_out: int = 7, **options: object) -> LoRAXSLinear:
    torch.manual_seed(0)
    layer = LoRAXSLinear(nn.Linear(d_in, d_out), **({"rank": 3, "alpha": 6} | options))
    nn.init.normal_(layer.R)
    return layer


@pytest.mark.parametrize(("d_in", "d_out"), [(9, 7), (7, 9), (8, 8)])
def test_the_update_lies_between_the_largest_singular_vectors(d_in: int, d_out: int):
    layer, x = layer_of(d_in, d_out), torch.randn(4, d_in)
    U, S, Vh = torch.linalg.svd(layer.base.weight, full_matrices=False)
    update = layer.adapted_weight() - layer.base.weight
    assert torch.linalg.matrix_rank(update) == 3
    # Nothing of it lies outside the three largest, and inside it is S R, up to signs.
    inside = U[:, :3].T @ update @ Vh[:3].T
    assert torch.allclose(U[:, :3] @ inside @ Vh[:3], update, atol=1e-5)
    assert torch.allclose(inside.abs(), (6 / 3 * S[:3, None] * layer.R).abs(), atol=1e-5)
    assert torch.allclose(
        layer(x), nn.functional.linear(x, layer.adapted_weight(), layer.base.bias), atol=1e-5
    )


def test_an_identity_scales_the_largest_part_of_the_weight():
    layer = layer_of(rank=7, alpha=7)
    with torch.no_grad():
        layer.R.copy_(0.5 * torch.eye(7))
    assert torch.allclose(layer.adapted_weight(), 1.5 * layer.base.weight, atol=1e-5)


def test_signs_do_not_depend_on_who_decomposes(monkeypatch: pytest.MonkeyPatch):
    layer, plain = nn.Linear(9, 7), torch.linalg.svd
    before = singular_triplets(layer, 4)

    def turned(weight: torch.Tensor, *, full_matrices: bool) -> tuple:
        U, S, Vh = plain(weight, full_matrices=full_matrices)
        signs = torch.tensor([1.0, -1, -1, 1, -1, 1, -1])
        return U * signs, S, Vh * signs[:, None]

    monkeypatch.setattr(torch.linalg, "svd", turned)
    for one, other in zip(before, singular_triplets(layer, 4), strict=True):
        assert torch.equal(one, other)


def test_a_fresh_update_changes_nothing_and_its_matrix_alone_gets_a_gradient():
    torch.manual_seed(0)
    layer, x = LoRAXSLinear(nn.Linear(9, 7), rank=2, alpha=4), torch.randn(3, 9)
    assert torch.equal(layer(x), layer.base(x))
    layer(x).square().sum().backward()
    assert layer.R.grad.all()
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"R"}
    assert layer.A.grad is layer.B.grad is None


def test_the_gradient_is_that_of_the_equation():
    layer, x = layer_of().double(), torch.randn(3, 9, dtype=torch.float64)
    R = layer.R.detach().clone().requires_grad_()
    y = layer.base(x) + 6 / 3 * x @ layer.A.T @ R.T @ layer.B.T
    (expected,) = torch.autograd.grad(y.square().sum(), R)
    x = x.requires_grad_()
    found, by_x = torch.autograd.grad(layer(x).square().sum(), (layer.R, x))
    assert torch.allclose(found, expected, rtol=1e-10)
    weight, bias = layer.adapted_weight(), layer.base.bias
    assert torch.allclose(by_x, 2 * (x @ weight.T + bias) @ weight, rtol=1e-10)


def test_no_input_is_kept_for_a_frozen_factor():
    layer, kept = layer_of(d_in=64, d_out=48), []
    x = torch.randn(32, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(x)
    assert (32, 3) in kept
    assert (32, 64) not in kept


def test_what_trains_and_what_is_stored_is_counted_in_bits(tmp_path: Path):
    model = disturb(apply(build(), LoRAXSConfig(rank=3)))
    n_layers = len(adapted_layers(model))
    assert count_parameters(model).trainable == 9 * n_layers
    tensors = load_file(save_adapter(model, tmp_path / "xs") / TENSORS_FILE)
    bits = sum(8 * tensor.nbytes for tensor in tensors.values())
    assert bits == 32 * 9 * n_layers
    lora = load_file(
        save_adapter(apply(build(), LoRAConfig(rank=1)), tmp_path / "l") / TENSORS_FILE
    )
    assert bits < 0.2 * sum(8 * tensor.nbytes for tensor in lora.values())
    again = load_adapter(build(), tmp_path / "xs")
    assert torch.equal(logits(again), logits(model))


def test_it_learns_what_it_can_reach():
    layer = layer_of(16, 16, rank=4)
    torch.manual_seed(1)
    x, target = torch.randn(64, 16), layer_of(16, 16, rank=4)
    nn.init.normal_(target.R)
    nn.init.zeros_(layer.R)
    y, losses = target(x).detach(), []
    optimizer = torch.optim.Adam([layer.R], lr=5e-2)
    for _ in range(150):
        loss = (layer(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rank": 0}, "rank=0 must be"), ({"alpha": 0}, "alpha=0 must be above 0")],
)
def test_a_wrong_option_is_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        LoRAXSConfig(**options)


def test_a_rank_too_large_is_named_and_the_model_stays_as_it_was():
    model = build()
    with pytest.raises(ValueError, match=r"rank=41 must be in 1..min\(d_in, d_out\)"):
        apply(model, LoRAXSConfig(rank=41))
    assert not adapted_layers(model)
