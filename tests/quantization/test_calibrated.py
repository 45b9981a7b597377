"""GPTQ and AWQ: lower output error than rounding, at equal bits."""

import pytest
import torch
from torch import nn

from course_utils.data import load_task
from course_utils.models import load_base_model, load_tokenizer
from course_utils.quantization import (
    awq,
    dequantize_blockwise,
    gptq,
    integer_codebook,
    nf4_codebook,
    output_error,
    quantize_blockwise,
)

CODEBOOKS = {"nf4": nf4_codebook(), "int3": integer_codebook(3)}


@pytest.fixture(scope="module")
def layers() -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Weight, calibration inputs and other inputs of every linear layer of the embedded model."""
    model, tokenizer = load_base_model("embedded"), load_tokenizer("embedded")
    texts = load_task("retention", "texts")["text"]
    seen: dict[str, list[torch.Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name != "lm_head":
            layer.register_forward_hook(
                lambda _, inputs, __, name=name: seen.setdefault(name, []).append(inputs[0][0])
            )
    with torch.no_grad():
        for text in texts[:40]:
            model(torch.tensor([tokenizer(text)["input_ids"]]))
    return {
        name: (model.get_submodule(name).weight.detach(), torch.cat(xs[:30]), torch.cat(xs[30:]))
        for name, xs in seen.items()
    }


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_every_layer_of_the_embedded_model_gains_on_texts_it_was_not_calibrated_on(layers, kind):
    codebook = CODEBOOKS[kind]
    assert len(layers) == 42
    gains = {"gptq": [], "awq": []}
    for name, (weight, inputs, others) in layers.items():
        rounded = quantize_blockwise(weight, codebook)
        tuned = {"gptq": gptq(weight, inputs, codebook), "awq": awq(weight, inputs, codebook)}
        assert tuned["gptq"].bits_per_element == rounded.bits_per_element
        assert tuned["awq"].quantized.bits_per_element == rounded.bits_per_element
        restored = {"gptq": dequantize_blockwise(tuned["gptq"]), "awq": tuned["awq"].dequantize()}
        plain = dequantize_blockwise(rounded)
        for method, found in restored.items():
            at_home = output_error(weight, found, inputs) / output_error(weight, plain, inputs)
            assert at_home <= 1 + 1e-6, (name, method)
            elsewhere = output_error(weight, found, others) / output_error(weight, plain, others)
            gains[method].append(elsewhere)
    assert max(gains["gptq"]) < 1
    assert sum(gains["awq"]) / len(gains["awq"]) < 1


def test_gptq_with_independent_inputs_is_plain_rounding():
    torch.manual_seed(0)
    weight, inputs = torch.randn(6, 16), torch.eye(16)
    found = gptq(weight, inputs, nf4_codebook(), 16)
    plain = quantize_blockwise(weight, nf4_codebook(), 16)
    assert torch.equal(found.packed, plain.packed)
    assert torch.allclose(found.scales, plain.scales)


def test_awq_with_equal_inputs_is_plain_rounding():
    weight = torch.randn(6, 16)
    found = awq(weight, torch.ones(3, 16), nf4_codebook(), 16)
    assert torch.equal(
        found.quantized.packed, quantize_blockwise(weight, nf4_codebook(), 16).packed
    )
    assert torch.equal(found.stretch, torch.ones(16))


def test_awq_stretches_the_columns_of_large_inputs():
    torch.manual_seed(0)
    inputs = torch.randn(200, 64)
    inputs[:, 5] *= 100
    found = awq(torch.randn(32, 64), inputs, integer_codebook(3))
    assert found.stretch.argmax() == 5


@pytest.mark.parametrize("method", [gptq, awq])
@pytest.mark.parametrize(
    ("inputs", "block_size", "message"),
    [
        (torch.ones(3, 15), 16, r"inputs of shape \(3, 15\) must be \(n, 16\)"),
        (torch.ones(0, 16), 16, r"inputs of shape \(0, 16\) must have at least one element"),
        (torch.full((3, 16), float("nan")), 16, "inputs has values that are not finite"),
        ([[1.0] * 16], 16, r"inputs=\[\[.* must be a tensor"),
        (torch.ones(3, 16), 5, "block_size=5 must divide d_in=16"),
        (torch.ones(3, 16), 8.0, "block_size=8.0 must be a whole number"),
    ],
)
def test_shapes_that_do_not_fit_are_named(method, inputs, block_size, message):
    with pytest.raises(ValueError, match=message):
        method(torch.ones(4, 16), inputs, nf4_codebook(), block_size)


@pytest.mark.parametrize("method", [gptq, awq])
def test_weights_and_codebooks_are_checked(method):
    inputs, codebook = torch.ones(3, 16), nf4_codebook()
    with pytest.raises(ValueError, match="weight has values that are not finite"):
        method(torch.full((4, 16), float("inf")), inputs, codebook, 16)
    with pytest.raises(ValueError, match=r"weight of shape \(16,\) must be \(d_out, d_in\)"):
        method(torch.ones(16), inputs, codebook, 16)
    with pytest.raises(ValueError, match="codebook from -3 to 3 must have two levels"):
        method(torch.ones(4, 16), inputs, 3 * codebook, 16)


def test_damping_must_leave_an_inverse():
    weight, inputs = torch.randn(4, 16), torch.ones(3, 16)
    for damping in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"damping={damping} must be"):
            gptq(weight, inputs, nf4_codebook(), 16, damping=damping)
    for given in (1e4 * inputs, 1e30 * inputs):
        with pytest.raises(ValueError, match="damping=0 leaves the inputs' second moments without"):
            gptq(weight, given, nf4_codebook(), 16, damping=0.0)


def test_an_error_relative_to_nothing_is_undefined():
    with pytest.raises(ValueError, match="the outputs are all zeros"):
        output_error(torch.zeros(4, 16), torch.ones(4, 16), torch.ones(3, 16))
    with pytest.raises(ValueError, match=r"must be \(d_out, d_in\), the same, and \(n, d_in\)"):
        output_error(torch.ones(4, 16), torch.ones(4, 1), torch.ones(3, 16))
