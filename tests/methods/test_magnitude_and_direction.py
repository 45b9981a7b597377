import math

import pytest
import torch

from course_utils.methods.dora import magnitude_and_direction

WEIGHT = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))


def test_every_row_agrees_with_norms_and_cosine():
    magnitude, direction = magnitude_and_direction(WEIGHT, OTHER)
    cosine = torch.nn.functional.cosine_similarity(WEIGHT.double(), OTHER.double(), dim=1)
    assert magnitude.shape == direction.shape == (6,)
    assert torch.allclose(magnitude, (OTHER.norm(dim=1) - WEIGHT.norm(dim=1)).abs())
    assert torch.allclose(direction.double(), 1 - cosine, atol=1e-6)


def test_longer_rows_are_not_turned_and_turned_rows_are_not_longer():
    magnitude, direction = magnitude_and_direction(WEIGHT, 3 * WEIGHT)
    assert torch.allclose(magnitude, 2 * WEIGHT.norm(dim=1))
    assert direction.max() < 1e-12
    magnitude, direction = magnitude_and_direction(WEIGHT, -WEIGHT)
    assert magnitude.max() == 0
    assert torch.allclose(direction, torch.full((6,), 2.0))
    # A rotation of the first two coordinates, of rows that have no others.
    rows = torch.tensor([[1.0, 0.0], [0.0, -3.0]])
    cos, sin = math.cos(0.5), math.sin(0.5)
    turned = rows @ torch.tensor([[cos, sin], [-sin, cos]])
    magnitude, direction = magnitude_and_direction(rows, turned)
    assert magnitude.max() < 1e-6
    assert torch.allclose(direction, torch.full((2,), 1 - cos))


def test_a_shorter_row_counts_like_a_longer_one():
    assert magnitude_and_direction(WEIGHT, WEIGHT / 2)[0].min() > 0
    assert torch.equal(
        magnitude_and_direction(WEIGHT, OTHER)[0], magnitude_and_direction(OTHER, WEIGHT)[0]
    )


def test_small_angles_are_not_rounded_away():
    """In float32 a cosine next to 1 has steps of 6e-8, more than fine-tuning may turn a row."""
    angle = 1e-4
    across = (
        OTHER - (OTHER * WEIGHT).sum(1, keepdim=True) * WEIGHT / WEIGHT.square().sum(1)[:, None]
    )
    across *= WEIGHT.norm(dim=1, keepdim=True) / across.norm(dim=1, keepdim=True)
    _, direction = magnitude_and_direction(WEIGHT, WEIGHT + math.tan(angle) * across)
    assert torch.allclose(direction, torch.full((6,), angle**2 / 2), rtol=0.02, atol=0)


def test_one_row_gives_two_numbers():
    magnitude, direction = magnitude_and_direction(WEIGHT[2], OTHER[2])
    rows = magnitude_and_direction(WEIGHT, OTHER)
    assert magnitude.item() == pytest.approx(rows[0][2].item())
    assert direction.item() == pytest.approx(rows[1][2].item())


def test_16_bit_weights_are_compared_in_32_and_64_stay():
    for given, found in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        results = magnitude_and_direction(WEIGHT.to(given).requires_grad_(), OTHER.to(given))
        assert [result.dtype for result in results] == [found, found]
        assert not any(result.requires_grad for result in results)


def test_a_row_of_zeros_has_no_direction():
    before = WEIGHT.clone()
    before[1] = 0
    magnitude, direction = magnitude_and_direction(before, OTHER)
    assert magnitude[1] == OTHER[1].norm()
    assert direction.isnan().tolist() == [False, True, False, False, False, False]


def test_weights_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"before \(6, 10\) and after \(10,\) must match"):
        magnitude_and_direction(WEIGHT, OTHER[0])
