"""NF4 and FP4 against bitsandbytes: the same codes, scales and doubly quantised scales."""

import pytest
import torch
from bitsandbytes import functional

from course_utils.quantization import (
    dequantize_blockwise,
    dynamic_codebook,
    fp4_codebook,
    nf4_codebook,
    quantize_blockwise,
    quantize_scales,
)

CODEBOOKS = {"nf4": nf4_codebook, "fp4": fp4_codebook}


@pytest.mark.parametrize("kind", CODEBOOKS)
def test_the_derived_codebook_is_the_librarys(kind: str):
    theirs = functional.get_4bit_type(kind, device="cpu")
    assert torch.equal(CODEBOOKS[kind](), theirs)


def test_the_dynamic_codebook_is_the_librarys():
    assert torch.equal(dynamic_codebook(), functional.create_dynamic_map())


@pytest.mark.parametrize("kind", CODEBOOKS)
@pytest.mark.parametrize("block_size", [32, 64, 128, 256, 512, 1024])
@pytest.mark.parametrize("shape", [(128, 256), (192, 192), (72, 40), (7, 4096)])
def test_codes_scales_and_double_quantisation(kind: str, block_size: int, shape: tuple[int, int]):
    torch.manual_seed(block_size)
    weight = torch.randn(shape) * torch.rand(shape[0], 1)
    ours = quantize_blockwise(weight, CODEBOOKS[kind](), block_size)
    packed, state = functional.quantize_4bit(weight, blocksize=block_size, quant_type=kind)
    assert torch.equal(ours.packed, packed.flatten())
    assert torch.equal(ours.scales, state.absmax)

    double = quantize_scales(ours)
    _, nested = functional.quantize_4bit(
        weight, blocksize=block_size, quant_type=kind, compress_statistics=True
    )
    assert torch.allclose(double.scales.mean, nested.offset, rtol=1e-6)
    assert torch.allclose(double.scales.centred.scales, nested.state2.absmax, rtol=1e-5)
    differing = double.scales.centred.packed != nested.absmax
    assert differing.float().mean() <= 0.01  # where a scale lies between two levels
    restored = functional.dequantize_blockwise(nested.absmax, nested.state2) + nested.offset
    step = nested.state2.absmax.max() / 50
    assert (double.restored_scales() - restored).abs().max() <= step


@pytest.mark.parametrize("kind", CODEBOOKS)
@pytest.mark.parametrize("shape", [(5, 31), (3, 100), (1, 70)])
def test_values_that_lie_between_two_levels_in_short_last_blocks(kind: str, shape):
    torch.manual_seed(1)
    weight = torch.randint(-12, 13, shape).float()
    weight[-1, -6:] = 0
    ours = quantize_blockwise(weight, CODEBOOKS[kind](), 64)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind)
    n_whole = weight.numel() // 2  # the last byte of an odd number holds half a code
    assert torch.equal(ours.packed[:n_whole], packed.flatten()[:n_whole])
    assert torch.equal(ours.scales, state.absmax)


def test_the_library_restores_wrongly_where_blocks_run_over_rows_on_the_cpu():
    """A known fault of its AVX-512 kernel, measured so that we notice when it is mended."""
    torch.manual_seed(0)
    weight = torch.randn(192, 192)
    packed, state = functional.quantize_4bit(weight, blocksize=128, quant_type="nf4")
    theirs = functional.dequantize_4bit(packed, state)
    ours = dequantize_blockwise(quantize_blockwise(weight, nf4_codebook(), 128))

    def error(restored: torch.Tensor) -> float:
        return ((restored - weight).square().mean() / weight.square().mean()).item()

    assert error(ours) < 0.012
    is_wrong = error(theirs) > 3 * error(ours)
    assert is_wrong or torch.allclose(theirs, ours, atol=1e-6)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert is_wrong


@pytest.mark.parametrize("block_size", [64, 128, 256])
def test_the_library_restores_flat_weights_as_ours_does(block_size: int):
    weight = torch.randn(192 * 192)
    packed, state = functional.quantize_4bit(weight[None], blocksize=block_size, quant_type="nf4")
    theirs = functional.dequantize_4bit(packed, state).flatten()
    ours = dequantize_blockwise(quantize_blockwise(weight, nf4_codebook(), block_size))
    assert torch.allclose(ours, theirs, atol=1e-6)
