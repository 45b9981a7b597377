import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from course_utils.memory import architecture_of, estimate
from course_utils.methods import AdapterError, apply, count_parameters, load_adapter, save_adapter
from course_utils.methods.layers import adapted_layers
from course_utils.methods.storage.folder import TENSORS_FILE
from course_utils.methods.tiny_lora import TinyLoRAConfig, TinyLoRALinear
from tests.methods.adapters import build, disturb, logits


def layer_of(n_numbers: int = 4, **options: object) -> TinyLoRALinear:
    torch.manual_seed(0)
    v = nn.Parameter(torch.randn(n_numbers))
    return TinyLoRALinear(nn.Linear(9, 7), v=v, **({"rank": 3, "seed": 5} | options))


def test_the_update_is_mixed_from_random_matrices_between_singular_vectors():
    layer, x = layer_of(), torch.randn(4, 9)
    R = sum(number * matrix for number, matrix in zip(layer.v, layer.P, strict=True))
    update = layer.B @ R @ layer.A
    assert torch.allclose(layer(x), layer.base(x) + x @ update.T, atol=1e-5)
    assert torch.allclose(layer.adapted_weight(), layer.base.weight + update, atol=1e-6)
    # The frozen factors are the best approximation of rank 3, its singular values shared out.
    U, S, Vh = torch.linalg.svd(layer.base.weight, full_matrices=False)
    assert torch.allclose(layer.B @ layer.A, U[:, :3] * S[:3] @ Vh[:3], atol=1e-5)
    assert torch.allclose(layer.A.norm(dim=1), S[:3].sqrt(), atol=1e-5)
    assert torch.allclose(layer.B.norm(dim=0), S[:3].sqrt(), atol=1e-5)


def test_the_matrices_come_from_the_seed_and_have_their_variance():
    assert torch.equal(layer_of().P, layer_of().P)
    assert not torch.equal(layer_of().P, layer_of(seed=6).P)
    assert layer_of(n_numbers=4000).P.var().item() == pytest.approx(1 / 3, rel=0.03)
    first, second, *_ = adapted_layers(apply(build(), TinyLoRAConfig())).values()
    assert not torch.equal(first.P, second.P)


@pytest.mark.parametrize("n_numbers", [1, 13])
def test_a_whole_model_trains_so_many_numbers(n_numbers: int, tmp_path: Path):
    method = TinyLoRAConfig(n_numbers=n_numbers, is_saved_whole=False)
    model, base = apply(build(), method), logits(build())
    assert count_parameters(model).trainable == n_numbers
    assert torch.equal(logits(model), base)
    model(input_ids=torch.ones(1, 3, dtype=torch.long)).logits.square().sum().backward()
    (v,) = {layer.v for layer in adapted_layers(model).values()}
    assert v.grad.all()
    with torch.no_grad():
        v.add_(0.3)
    assert (logits(model) - base).abs().max() > 1e-3
    # On disk: 32 bits a number, and nothing else.
    tensors = load_file(save_adapter(model, tmp_path) / TENSORS_FILE)
    assert sum(8 * tensor.nbytes for tensor in tensors.values()) == 32 * n_numbers
    assert torch.equal(logits(load_adapter(build(), tmp_path)), logits(model))


def test_as_peft_stores_it_the_frozen_parts_are_nearly_all_of_it(tmp_path: Path):
    model = disturb(apply(build(), TinyLoRAConfig()))
    tensors = load_file(save_adapter(model, tmp_path) / TENSORS_FILE)
    trained = sum(8 * t.nbytes for name, t in tensors.items() if "tinylora_v" in name)
    assert trained == 32 * 13
    widths = [layer.A.shape[1] + layer.B.shape[0] for layer in adapted_layers(model).values()]
    frozen = sum(2 * width + 13 * 4 for width in widths)
    assert sum(8 * t.nbytes for t in tensors.values()) == trained + 32 * frozen > 100 * trained


@pytest.mark.parametrize(
    ("tying", "groups"),
    [
        (0.0, [0, 1, 2, 3, 4, 5, 6]),
        (1.0, [0] * 7),
        (0.5, [0, 1, 2, 3, 3, 3, 3]),  # round(3.5) = 4 groups of 7 // 4 = 1, the rest in the last
        (0.7, [0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_neighbours_share_a_vector(tying: float, groups: list[int]):
    assert TinyLoRAConfig(weight_tying=tying).groups(7) == groups


def test_layers_that_share_a_vector_still_do_in_a_copy_and_in_another_type():
    model = apply(build(), TinyLoRAConfig(weight_tying=0.9))
    for other in (copy.deepcopy(model), copy.deepcopy(model).double()):
        assert count_parameters(other).trainable == 13
        assert len({id(layer.v) for layer in adapted_layers(other).values()}) == 1


@pytest.mark.parametrize("tying", [0.0, 0.4, 1.0])
def test_shared_numbers_are_counted_once_in_memory(tying: float):
    model, method = build(), TinyLoRAConfig(n_numbers=3, weight_tying=tying)
    predicted = estimate(architecture_of(model), method, batch_size=1, seq_len=4)
    assert predicted.n_trained == count_parameters(apply(model, method)).trainable


@pytest.mark.parametrize("is_saved_whole", [True, False])
def test_a_stored_adapter_has_its_groups_again_and_is_one_bases(
    is_saved_whole: bool, tmp_path: Path
):
    method = TinyLoRAConfig(weight_tying=0.5, is_saved_whole=is_saved_whole)
    save_adapter(disturb(apply(build(), method)), tmp_path)
    tensors = load_file(tmp_path / TENSORS_FILE)
    assert sum("tinylora_v" in name for name in tensors) == 7
    model = load_adapter(build(), tmp_path)
    assert torch.equal(logits(model), logits(load_adapter(build(), tmp_path)))
    assert len({id(layer.v) for layer in adapted_layers(model).values()}) == 7
    with pytest.raises(AdapterError, match="another base model"):
        load_adapter(build(seed=1), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0 must be"),
        ({"n_numbers": 0}, "n_numbers=0 must be"),
        ({"weight_tying": 1.1}, r"weight_tying=1.1 must be in 0..1"),
        ({"weight_tying": -0.1}, r"weight_tying=-0.1 must be in 0..1"),
        ({"dropout": 1}, "dropout=1 must be"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"is_saved_whole": 1}, "is_saved_whole=1 must be True or False"),
    ],
)
def test_a_wrong_option_is_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TinyLoRAConfig(**options)
