import pytest
import torch
from torch import nn

from course_utils.models import load_base_model
from course_utils.quantization import (
    NF4Linear,
    dequantize_blockwise,
    fp4_codebook,
    integer_codebook,
    nf4_codebook,
    quantization_error,
    quantize_blockwise,
    quantize_model,
    quantize_scales,
    relative_error,
)
from course_utils.quantization.blockwise import nearest, pack, unpack

ONES, NAN = torch.ones(2, 3), torch.full((2, 3), float("nan"))
CODEBOOKS = {"nf4": nf4_codebook(), "fp4": fp4_codebook()} | {
    f"int{n}": integer_codebook(n) for n in (2, 3, 4, 8)
}


def test_nf4_has_a_zero_both_ends_and_a_normals_quantiles():
    levels = nf4_codebook()
    assert len(levels) == 16
    assert levels[0] == -1
    assert levels[7] == 0
    assert levels[15] == 1
    normal = torch.distributions.Normal(0, 1)
    shares = normal.cdf(levels[8:] * normal.icdf(torch.tensor(0.9677083)))
    assert torch.allclose(shares.diff(), shares.diff().mean().expand(7), atol=1e-6)


@pytest.mark.parametrize("n_bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("n", [1, 7, 8, 33])
def test_packing_wastes_no_bit_and_loses_none(n_bits: int, n: int):
    indices = torch.randint(2**n_bits, (n,), dtype=torch.uint8)
    packed = pack(indices, n_bits)
    assert len(packed) == -(-n * n_bits // 8)
    assert torch.equal(unpack(packed, n_bits, n), indices.long())


def test_two_codes_share_a_byte_the_first_in_the_high_half():
    assert pack(torch.tensor([1, 2, 15], dtype=torch.uint8), 4).tolist() == [0x12, 0xF0]


@pytest.mark.parametrize("name", CODEBOOKS)
@pytest.mark.parametrize("shape", [(8, 64), (5, 13), (3,), (2, 3, 7)])
@pytest.mark.parametrize("block_size", [7, 16, 64])
def test_every_weight_becomes_the_nearest_level(name: str, shape: tuple, block_size: int):
    weight = torch.randn(shape)
    quantized = quantize_blockwise(weight, CODEBOOKS[name], block_size)
    restored = dequantize_blockwise(quantized)
    assert restored.shape == weight.shape
    for start in range(0, weight.numel(), block_size):
        block = weight.flatten()[start : start + block_size]
        levels = CODEBOOKS[name] * block.abs().max()
        best = (block[:, None] - levels).abs().min(dim=1).values
        found = (block - restored.flatten()[start : start + block_size]).abs()
        assert torch.allclose(found, best, atol=1e-6)


def test_nearest_breaks_ties_downwards():
    assert nearest(torch.tensor([-0.5, 0.5]), torch.tensor([0.0, 1.0, -1.0])).tolist() == [2, 0]


def test_zeros_and_levels_are_kept_exactly():
    assert not dequantize_blockwise(quantize_blockwise(torch.zeros(70), nf4_codebook())).any()
    levels = nf4_codebook() * 3
    assert torch.equal(dequantize_blockwise(quantize_blockwise(levels, nf4_codebook())), levels)


def test_errors_rank_as_the_papers_say_on_normal_weights():
    torch.manual_seed(0)
    weight = torch.randn(512, 512)
    errors = {n: quantization_error(weight, levels, 64) for n, levels in CODEBOOKS.items()}
    order = ["int8", "nf4", "int4", "fp4", "int3", "int2"]
    assert sorted(errors, key=errors.get) == order
    assert 0.008 < errors["nf4"] < 0.009
    larger = [quantization_error(weight, nf4_codebook(), size) for size in (32, 64, 256, 1024)]
    assert larger == sorted(larger)


def test_double_quantisation_measures_4_127_bits_a_weight():
    plain = quantize_blockwise(torch.randn(1024, 1024), nf4_codebook())
    assert plain.bits_per_element == 4.5
    double = quantize_scales(plain)
    assert round(double.bits_per_element, 3) == 4.127
    off = (double.restored_scales() - plain.scales).abs() / plain.scales
    assert off.max() < 0.02


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("is_double", [True, False])
def test_a_layer_computes_with_the_restored_weight_in_both_passes(bias: bool, is_double: bool):
    base = nn.Linear(33, 21, bias=bias)
    layer = NF4Linear(base, is_double=is_double)
    plain = nn.Linear(33, 21, bias=bias)
    with torch.no_grad():
        plain.weight.copy_(layer.dequantize())
        if bias:
            plain.bias.copy_(base.bias)
    x = torch.randn(4, 5, 33, requires_grad=True)
    ours, theirs = layer(x), plain(x)
    assert torch.allclose(ours, theirs, atol=1e-6)
    upstream = torch.randn_like(ours)
    (mine,) = torch.autograd.grad(ours, x, upstream)
    (expected,) = torch.autograd.grad(theirs, x, upstream)
    assert torch.allclose(mine, expected, atol=1e-5)
    assert not [p for p in layer.parameters() if p.requires_grad]


def test_a_layer_keeps_no_full_precision_copy_not_even_for_the_backward_pass():
    layer = NF4Linear(nn.Linear(256, 512, bias=False))
    held = [*layer.buffers(), *layer.parameters()]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(2, 256, requires_grad=True))
    assert sum(t.numel() * t.element_size() for t in held) < 0.6 * 256 * 512 + 2048
    assert all(t.numel() < 256 * 512 for t in kept)


def test_a_stored_layer_is_restored_bit_for_bit():
    layer, other = NF4Linear(nn.Linear(64, 32)), NF4Linear(nn.Linear(64, 32))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.dequantize(), layer.dequantize())


def test_the_embedded_model_in_four_bits():
    model = load_base_model("embedded")
    before = sum(p.numel() * p.element_size() for p in model.parameters())
    quantize_model(model)
    layers = [m for m in model.modules() if isinstance(m, NF4Linear)]
    assert len(layers) == 7 * model.config.num_hidden_layers
    after = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    assert after < 0.35 * before
    assert isinstance(model.lm_head, nn.Linear)
    with pytest.raises(ValueError, match=r"q_proj \(NF4Linear\) is stored in few bits already"):
        quantize_model(model)


def test_a_model_that_cannot_be_packed_stays_as_it_was():
    model = load_base_model("embedded")
    with torch.no_grad():
        model.model.layers[-1].mlp.up_proj.weight[3, 5] = float("nan")
    for wrong, message in (
        ({}, r"layers\.\d+\.mlp\.up_proj has values that are not finite"),
        ({"block_size": 64.0}, "block_size=64.0 must be a whole number"),
        ({"is_double": "false"}, "is_double='false' must be True or False"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_model(model, **wrong)
    assert not any(isinstance(module, NF4Linear) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="Embedding has no linear layer beside its head"):
        quantize_model(nn.Embedding(2, 2))


def test_a_library_that_keeps_its_codes_under_a_matrixs_name_is_seen():
    class Codes(nn.Parameter):
        """As bitsandbytes has it."""

    kinds = {
        "class": Codes(torch.ones(4, 4)),
        "type": nn.Parameter(torch.ones(4, 4, dtype=torch.uint8), requires_grad=False),
        "shape": nn.Parameter(torch.ones(16, 1)),
        "width": nn.Parameter(torch.ones(4, 4).to(torch.float8_e4m3fn)),
    }
    for weight in kinds.values():
        layer = nn.Linear(4, 4)
        layer.weight = weight
        model = nn.Sequential(nn.Linear(4, 4), layer)
        with pytest.raises(ValueError, match=r"1 \(Linear\) is stored in few bits already"):
            quantize_model(model)
        with pytest.raises(ValueError, match="Linear has no plain matrix to store in four bits"):
            NF4Linear(layer)
    experts = nn.Sequential(nn.Linear(4, 4))
    experts.register_parameter("experts", nn.Parameter(torch.ones(2, 4, 4)))
    with pytest.raises(ValueError, match="experts has 3 dimensions and is no linear layer's"):
        quantize_model(experts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: integer_codebook(1), r"n_bits=1 must be in 2..8"),
        (lambda: integer_codebook(2.5), "n_bits=2.5 must be a whole number"),
        (
            lambda: relative_error(ONES, ONES[:, :1]),
            r"restored of shape \(2, 1\) must have weight's",
        ),
        (lambda: relative_error(ONES, NAN), "restored has values that are not finite"),
        (lambda: relative_error(0 * ONES, ONES), "the weights are all zeros"),
    ],
)
def test_a_wrong_argument_is_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight": NAN}, "weight has values that are not finite"),
        ({"weight": ONES.to(torch.complex64)}, "weight of type torch.complex64 must hold floating"),
        ({"weight": ONES.int()}, "weight of type torch.int32 must hold floating"),
        ({"weight": ONES > 0}, "weight of type torch.bool must hold floating"),
        ({"weight": [1.0]}, r"weight=\[1.0\] must be a tensor"),
        ({"weight": ONES[:0]}, r"weight of shape \(0, 3\) must have at least one element"),
        ({"codebook": torch.ones(1)}, r"codebook of shape \(1,\) must be one row of 2..256"),
        ({"codebook": torch.linspace(-1, 1, 257)}, r"codebook of shape \(257,\) must be one row"),
        ({"codebook": nf4_codebook()[:, None]}, r"codebook of shape \(16, 1\) must be one row"),
        ({"codebook": 2 * nf4_codebook()}, "codebook from -2 to 2 must have two levels in -1..1"),
        ({"codebook": torch.zeros(4)}, "codebook from 0 to 0 must have two levels"),
        ({"codebook": torch.tensor([-1.0, float("inf")])}, "codebook has values that are not fin"),
        ({"codebook": [-1.0, 1.0]}, r"codebook=\[-1.0, 1.0\] must be a tensor"),
        ({"block_size": 0}, "block_size=0 must be at least 1"),
        ({"block_size": 1.5}, "block_size=1.5 must be a whole number"),
        ({"block_size": "64"}, "block_size='64' must be a whole number"),
        ({"block_size": None}, "block_size=None must be a whole number"),
    ],
)
def test_what_is_quantised_and_how_is_checked(wrong: dict, message: str):
    arguments = {"weight": ONES, "codebook": nf4_codebook(), "block_size": 2} | wrong
    with pytest.raises(ValueError, match=message):
        quantize_blockwise(**arguments)


@pytest.mark.parametrize("codebook", CODEBOOKS.values(), ids=CODEBOOKS)
def test_a_block_longer_than_the_weight_takes_no_more_than_the_weight(codebook):
    weight = torch.randn(7, 9)
    exact = dequantize_blockwise(quantize_blockwise(weight, codebook, 64))
    for block_size in (100, 2**33, 2**62):
        quantized = quantize_blockwise(weight, codebook, block_size)
        assert torch.equal(dequantize_blockwise(quantized), exact)
        assert torch.isfinite(dequantize_blockwise(quantize_scales(quantized))).all()
