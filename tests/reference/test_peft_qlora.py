"""``LoRALinear(NF4Linear)`` against PEFT's LoRA and DoRA on bitsandbytes' ``Linear4bit``."""

import bitsandbytes
import pytest
import torch
from torch import nn

from course_utils.methods.dora import DoRALinear
from course_utils.methods.lora import LoRALinear
from course_utils.models import load_base_model
from course_utils.quantization import NF4Linear
from tests.tiny_models import write_tiny_model


class OneLayer(nn.Module):
    """What PEFT can wrap: a model with one layer."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def theirs_of(base: nn.Linear, *, use_dora: bool, is_double: bool) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    four_bit = bitsandbytes.nn.Linear4bit(
        base.in_features,
        base.out_features,
        bias=base.bias is not None,
        quant_type="nf4",
        compute_dtype=torch.float32,
        compress_statistics=is_double,
    )
    four_bit.load_state_dict(base.state_dict())
    # Repacked for inference, the layer would silently lose its inputs' gradients.
    four_bit.support_avx512bf16_for_cpu = False
    four_bit = four_bit.to("cpu")
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["linear"], use_dora=use_dora)
    return get_peft_model(OneLayer(four_bit), config)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("is_double", [False, True])
@pytest.mark.parametrize("shape", [(128, 64), (64, 72), (192, 40)])
def test_forward_gradients_and_steps(shape, bias: bool, use_dora: bool, is_double: bool):
    torch.manual_seed(0)
    base = nn.Linear(*shape, bias=bias)
    kind = DoRALinear if use_dora else LoRALinear
    ours = kind(NF4Linear(base, is_double=is_double), rank=4, alpha=6)
    theirs = theirs_of(base, use_dora=use_dora, is_double=is_double)
    nn.init.normal_(ours.B, std=0.1)
    layer = theirs.base_model.model.linear
    places = {"A": layer.lora_A["default"].weight, "B": layer.lora_B["default"].weight}
    if use_dora:
        places["magnitude"] = layer.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(getattr(ours, name))
    x = torch.randn(5, 7, shape[0])
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [ours(inputs[0]), theirs(inputs[1])]
    assert torch.allclose(*outputs, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(upstream)
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-5)
    for name, place in places.items():
        mine = getattr(ours, name).grad
        assert (mine - place.grad).norm() <= 1e-5 * place.grad.norm(), name
    for model, trained in ((ours, [getattr(ours, n) for n in places]), (theirs, places.values())):
        optimizer = torch.optim.SGD(trained, lr=1e-3)
        for _ in range(10):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for name, place in places.items():
        assert (getattr(ours, name) - place).norm() <= 1e-5 * place.norm(), name


def test_a_model_loaded_in_four_bits_still_passes_gradients_after_an_evaluation(tmp_path):
    """Unless told not to, bitsandbytes repacks weights for some processors when it evaluates."""
    from transformers import BitsAndBytesConfig

    folder = write_tiny_model(tmp_path / "llama", "llama", seed=0)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model = load_base_model(folder, quantization_config=config)
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        evaluated = model(input_ids=ids).logits
    inputs = model.get_input_embeddings()(ids).detach().requires_grad_()
    trained = model.train()(inputs_embeds=inputs).logits
    assert torch.allclose(evaluated, trained, atol=1e-5)
    trained.square().sum().backward()
    assert inputs.grad.abs().sum() > 0
