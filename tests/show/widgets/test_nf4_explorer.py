import pytest
import torch
from matplotlib.pyplot import close

from course_utils.quantization import (
    fp4_codebook,
    integer_codebook,
    nf4_codebook,
    quantization_error,
    quantize_blockwise,
    relative_error,
)
from course_utils.show.widgets import (
    divide_by_absmax,
    make_outliers,
    nf4_explorer,
)

WEIGHT = 0.02 * torch.randn(128, 64, generator=torch.Generator().manual_seed(0))


def test_the_error_is_relative_to_the_weights_size():
    # In blocks of two and levels -1, 0, 1 the last weight becomes 0.
    weight = torch.tensor([1.0, 0.4])
    assert quantization_error(weight, integer_codebook(2), 2) == pytest.approx(0.16 / 1.16)
    assert quantization_error(100 * weight, integer_codebook(2), 2) == pytest.approx(0.16 / 1.16)
    assert relative_error(weight, weight) == 0
    assert relative_error(weight, 0 * weight) == 1


@pytest.mark.parametrize("block_size", [64, 256])
def test_nf4_has_the_least_error_of_four_bits_on_normal_weights(block_size):
    error = {
        name: quantization_error(WEIGHT, codebook, block_size)
        for name, codebook in {
            "nf4": nf4_codebook(),
            "fp4": fp4_codebook(),
            "int4": integer_codebook(4),
            "int8": integer_codebook(8),
            "int3": integer_codebook(3),
            "int2": integer_codebook(2),
        }.items()
    }
    assert error["nf4"] < error["int4"] < error["int3"] < error["int2"]
    assert error["nf4"] < error["fp4"]
    assert error["int8"] < error["nf4"] / 50


def test_larger_blocks_have_larger_errors():
    errors = [quantization_error(WEIGHT, nf4_codebook(), 2**k) for k in range(4, 11)]
    assert errors == sorted(errors)


def test_zeros_have_no_relative_error():
    with pytest.raises(ValueError, match="all zeros"):
        quantization_error(torch.zeros(8), nf4_codebook(), 4)
    with pytest.raises(ValueError, match="all zeros"):
        nf4_explorer(torch.zeros(8))


def test_outliers_are_the_share_and_the_fewer_are_among_the_more():
    weight = WEIGHT.flatten()
    few, is_few = make_outliers(weight, 0.01, seed=3)
    _, is_many = make_outliers(weight, 0.02, seed=3)
    assert is_few.sum() == round(0.01 * len(weight))
    assert is_many.sum() == round(0.02 * len(weight))
    assert (is_many | ~is_few).all()
    assert torch.equal(few[is_few], 20 * weight[is_few])
    assert torch.equal(few[~is_few], weight[~is_few])
    assert torch.equal(make_outliers(weight, 0.01, seed=3)[0], few)
    assert not torch.equal(make_outliers(weight, 0.01, seed=4)[0], few)
    assert torch.equal(make_outliers(weight, 0.0, seed=3)[0], weight)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=f"share={share} must be in 0..1"):
        make_outliers(torch.ones(4), share, seed=0)


@pytest.mark.parametrize("n", [64, 50])
def test_weights_over_their_absmax_reach_one_in_every_block(n):
    weight = WEIGHT.flatten()[:n].clone()
    weight[:16] = 0
    relative = divide_by_absmax(weight, quantize_blockwise(weight, nf4_codebook(), 16))
    assert relative.shape == weight.shape
    assert relative[:16].abs().max() == 0
    for start in range(16, n, 16):
        block = slice(start, start + 16)
        assert relative[block].abs().max() == pytest.approx(1)
        assert torch.allclose(relative[block] * weight[block].abs().max(), weight[block])


def test_words_give_error_and_bits():
    explorer = nf4_explorer(WEIGHT)
    error = quantization_error(WEIGHT, nf4_codebook(), 64)
    assert explorer.error == pytest.approx(error)
    assert f"error is {100 * error:.3g}%" in repr(explorer)
    # 32 bits for 64 weights; then 8 for 64, and (32 + 32) bits for all, which are 8,192.
    assert "4.500 bits" in repr(explorer)
    assert f"{4 + 8 / 64 + 64 / 8192:.3f} with the scales" in repr(explorer)
    assert "were made" not in repr(explorer)
    assert "Taken" not in repr(explorer)
    explorer.block_size.value = 16
    assert "6.000 bits" in repr(explorer)
    explorer.format.value = "INT8"
    assert "10.000 bits" in repr(explorer)


def test_outliers_spoil_the_others():
    explorer = nf4_explorer(WEIGHT, seed=1)
    before = explorer.others_error
    assert before == explorer.error
    explorer.outliers.value = 1.0
    assert explorer.others_error > 5 * before
    assert explorer.n_outliers == 82
    assert f"{100 * explorer.others_error:.3g}% of their own mean square" in repr(explorer)
    assert f"without outliers it is {100 * before:.3g}%" in repr(explorer)
    large = explorer.others_error
    explorer.block_size.value = 16
    assert explorer.others_error < large / 2


@pytest.mark.parametrize(
    ("name", "n_levels"), [("NF4", 16), ("FP4", 15), ("INT3", 7), ("INT8", 255)]
)
def test_the_picture_has_every_weight_and_every_level(name, n_levels):
    explorer = nf4_explorer(WEIGHT)
    explorer.format.value = name
    ax = explorer.draw()
    assert sum(ax.patches[0].get_data().values) == pytest.approx(100, rel=1e-5)
    assert len(ax.collections[0].get_segments()) == n_levels
    assert f"{n_levels} levels" in {text.get_text() for text in ax.texts}
    assert ax.get_title(loc="left").startswith(f"{name}, blocks of 64: ")
    close(ax.figure)


def test_the_title_says_how_many_weights_vanish():
    explorer = nf4_explorer(torch.tensor([1.0, 0.4, 0.6, 0.1]))
    explorer.format.value = "INT2"
    assert explorer.zeros == 0.5
    ax = explorer.draw()
    assert "50% of the weights round to 0" in ax.get_title(loc="left")
    close(ax.figure)


def test_of_many_weights_the_first_are_taken():
    weight = torch.randn(300, 250, generator=torch.Generator().manual_seed(0)).bfloat16()
    explorer = nf4_explorer(weight.requires_grad_())
    assert torch.equal(explorer.weight, weight.detach().flatten()[: 2**16].float())
    assert "the first 65,536 of 75,000 weights" in repr(explorer)
