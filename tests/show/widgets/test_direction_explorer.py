import math

import pytest
import torch
from matplotlib.pyplot import close
from torch import nn

from course_utils.methods.dora import DoRALinear, magnitude_and_direction
from course_utils.show.widgets import degrees, direction_explorer, set_magnitude

STATES = [(0.0, 0.0, 1.0), (0.2, 0.8, 1.0), (-0.8, 1.2, 1.6), (-0.8, 0.0, 0.4), (1.0, 0.0, 0.4)]


def at(along: float, across: float, magnitude: float):
    explorer = direction_explorer()
    explorer.along.value, explorer.across.value = along, across
    explorer.magnitude.value = magnitude
    return explorer


def test_rows_get_their_length_and_keep_their_direction():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([0.5, 1.0, 2.0, 3.0, 10.0])
    found = set_magnitude(weight, lengths)
    assert torch.allclose(found.norm(dim=1), lengths)
    assert magnitude_and_direction(weight, found)[1].max() < 1e-12
    assert torch.allclose(set_magnitude(weight, 2.0).norm(dim=1), torch.full((5,), 2.0))


def test_it_is_what_a_dora_layer_computes():
    generator = torch.Generator().manual_seed(0)
    layer = DoRALinear(nn.Linear(7, 5), rank=2, alpha=3.0)
    with torch.no_grad():
        for factor in (layer.A, layer.B):
            factor.copy_(torch.randn(factor.shape, generator=generator))
        layer.magnitude.copy_(torch.rand(5, generator=generator) + 0.5)
        updated = layer.base.weight + layer.scaling * layer.B @ layer.A
        assert torch.allclose(layer.adapted_weight(), set_magnitude(updated, layer.magnitude))


@pytest.mark.parametrize("angle", [0.0, 1.0, 45.0, 90.0, 180.0])
def test_degrees_undo_the_cosine(angle):
    assert degrees(1 - math.cos(math.radians(angle))) == pytest.approx(angle, abs=1e-4)


def test_degrees_bear_rounding():
    assert degrees(-1e-9) == 0
    assert degrees(2 + 1e-9) == 180


@pytest.mark.parametrize("state", STATES)
def test_both_turn_alike_and_dora_has_the_length_that_is_set(state):
    explorer = at(*state)
    along, across, magnitude = state
    assert torch.allclose(explorer.lora, torch.tensor([1 + along, across]))
    assert explorer.dora.norm().item() == pytest.approx(magnitude)
    assert magnitude_and_direction(explorer.lora, explorer.dora)[1] < 1e-12


def test_lora_cannot_turn_this_row_alone_dora_can():
    explorer = at(0.0, 0.8, 1.0)
    row = torch.tensor([1.0, 0.0])
    longer, turned = magnitude_and_direction(row, explorer.lora)
    assert longer > 0.2
    assert turned > 0.2
    longer, also_turned = magnitude_and_direction(row, explorer.dora)
    assert longer < 1e-6
    assert also_turned.item() == pytest.approx(turned.item())


def test_words_give_length_and_angle_of_both():
    lora, dora = repr(at(-0.4, 0.6, 1.5)).split(" DoRA: ")
    # The row (0.6, 0.6): sqrt(0.72) long, at 45 degrees.
    assert lora.startswith("LoRA: the length goes from 1 to 0.85 (change 0.15)")
    assert dora.startswith("the length goes from 1 to 1.50 (change 0.50)")
    assert lora.count("45.0 degrees (1 - cos = 0.293)") == 1
    assert dora.count("45.0 degrees (1 - cos = 0.293)") == 1


@pytest.mark.parametrize("state", STATES)
def test_arrows_end_where_the_rows_do_and_lie_in_the_picture(state):
    explorer = at(*state)
    ax = explorer.draw()
    arrows = [text for text in ax.texts if text.arrow_patch is not None]
    assert [arrow.xyann for arrow in arrows] == [(0, 0), (0, 0), (0, 0), (1, 0)]
    ends = [explorer.lora, torch.tensor([1.0, 0.0]), explorer.dora, explorer.lora]
    for arrow, end in zip(arrows, ends, strict=True):
        assert arrow.xy == pytest.approx(end.tolist())
        assert ax.get_xlim()[0] < arrow.xy[0] < ax.get_xlim()[1]
        assert ax.get_ylim()[0] < arrow.xy[1] < ax.get_ylim()[1]
    assert f"DoRA's is set to {state[2]:.2f}" in ax.get_title(loc="left")
    assert ax.get_aspect() == 1
    close(ax.figure)


def test_the_names_of_row_and_dora_are_apart():
    for state in [*STATES, (0.0, 0.0, 0.5), (0.0, 0.0, 0.8), (0.2, 0.2, 1.0)]:
        ax = at(*state).draw()
        ax.figure.draw_without_rendering()
        boxes = {
            text.get_text(): text.get_window_extent()
            for text in ax.texts
            if text.get_text() in ("w", "DoRA", "LoRA")
        }
        assert not boxes["w"].overlaps(boxes["DoRA"]), state
        assert not boxes["LoRA"].overlaps(boxes["DoRA"]), state
        close(ax.figure)
