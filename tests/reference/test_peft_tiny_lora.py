"""TinyLoRA against PEFT's tuner: same vectors in, same numbers out; files travel both ways."""

import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel, TinyLoraConfig, get_peft_model
from torch import nn

from course_utils.methods import AdapterError, apply, load_adapter, merge, save_adapter
from course_utils.methods.layers import adapted_layers
from course_utils.methods.storage.state import adapter_tensors
from course_utils.methods.tiny_lora import VECTORS, TinyLoRAConfig
from tests.methods.adapters import IDS, MODELS, build

METHODS = {
    "13 numbers": TinyLoRAConfig(),
    "1 number": TinyLoRAConfig(n_numbers=1, seed=3),
    "half tied": TinyLoRAConfig(rank=3, n_numbers=5, weight_tying=0.5),
    "each its own": TinyLoRAConfig(rank=4, n_numbers=2, weight_tying=0.0),
}


def build_theirs(name: str, method: TinyLoRAConfig, **options: object) -> PeftModel:
    settings = {
        "r": method.rank,
        "u": method.n_numbers,
        "weight_tying": method.weight_tying,
        "projection_seed": method.seed,
        "target_modules": "all-linear",
        "fan_in_fan_out": name == "gpt2",
        "task_type": "CAUSAL_LM",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(build(name), TinyLoraConfig(**settings | options))


def vectors_of_theirs(model: PeftModel) -> dict[str, nn.Parameter]:
    return {f"{VECTORS}{key}": v for key, v in model.base_model.tinylora_v["default"].items()}


def vectors_of_ours(model: nn.Module, method: TinyLoRAConfig) -> dict[str, torch.Tensor]:
    tensors = adapter_tensors(model, method)
    return {name: tensor for name, tensor in tensors.items() if name.startswith(VECTORS)}


def same_start(name: str, method: TinyLoRAConfig) -> tuple[nn.Module, PeftModel]:
    """Both models with the same vectors, and with PEFT's frozen parts: it may turn signs."""
    ours, theirs = apply(build(name), method), build_theirs(name, method)
    mine, places = vectors_of_ours(ours, method), vectors_of_theirs(theirs)
    assert mine.keys() == places.keys()
    torch.manual_seed(1)
    with torch.no_grad():
        for key, vector in mine.items():
            vector.add_(0.3 * torch.randn_like(vector))
            places[key].copy_(vector)
        for layer_name, layer in adapted_layers(ours).items():
            other = theirs.base_model.model.get_submodule(layer_name)
            A, B = other.tinylora_A["default"], other.tinylora_B["default"]
            # The same matrices from the same seed, and the same factors up to signs.
            assert torch.equal(layer.P, other.tinylora_P["default"])
            assert torch.allclose(layer.A.abs(), A.abs(), atol=1e-4)
            assert torch.allclose(layer.B @ layer.A, B @ A, atol=1e-4)
            layer.A.copy_(A)
            layer.B.copy_(B)
    return ours, theirs


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).norm() <= 1e-5 * theirs.norm())


def loss_of(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS, labels=IDS).loss


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", METHODS)
def test_forward_gradients_ten_steps_and_merge(name: str, kind: str):
    method = METHODS[kind]
    ours, theirs = same_start(name, method)
    assert close(ours(IDS).logits, theirs(IDS).logits)

    loss_of(ours).backward()
    loss_of(theirs).backward()
    mine, others = vectors_of_ours(ours, method), vectors_of_theirs(theirs)
    for key, vector in mine.items():
        assert close(vector.grad, others[key].grad), key

    for model, vectors in ((ours, mine), (theirs, others)):
        optimizer = torch.optim.AdamW(vectors.values(), lr=1e-3)
        for _ in range(10):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    for key, vector in mine.items():
        assert close(vector, others[key]), key

    merge(ours)
    plain = theirs.merge_and_unload()
    for layer_name, layer in adapted_layers(ours).items():
        assert close(layer.merged.weight, plain.get_submodule(layer_name).weight), layer_name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", METHODS)
def test_what_ours_saves_loads_in_peft_and_back(name: str, kind: str, tmp_path: Path):
    ours, _ = same_start(name, METHODS[kind])
    save_adapter(ours, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(build(name), tmp_path / "ours")
    assert close(ours(IDS).logits, theirs(IDS).logits)

    theirs.save_pretrained(tmp_path / "theirs")
    again = load_adapter(build(name), tmp_path / "theirs")
    assert torch.equal(again(IDS).logits, ours(IDS).logits)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], r".*layers\.1.*(q|up)_proj"])
def test_what_peft_chose_by_names_or_by_a_pattern_loads(targets: list | str, tmp_path: Path):
    method = TinyLoRAConfig(weight_tying=0.5)
    theirs = build_theirs("llama", method, target_modules=targets, init_weights="uniform")
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(build(), tmp_path)
    assert close(ours(IDS).logits, theirs(IDS).logits)
    assert not torch.allclose(ours(IDS).logits, build()(IDS).logits)


def test_without_its_matrices_a_file_is_refused_by_the_option(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build_theirs("llama", METHODS["13 numbers"], save_projection=False).save_pretrained(
            tmp_path
        )
    with pytest.raises(AdapterError, match="uses save_projection=False, which is not read here"):
        load_adapter(build(), tmp_path)
