from functools import cache

import pytest
import torch
from matplotlib.pyplot import close

from course_utils.rlhf.losses import clipped_policy_loss
from course_utils.show.widgets import clip_explorer, clipped_surrogate

# Ratio, advantage; objective and slope at a clip range of 0.2 by hand (fig. 1 of the paper).
BY_HAND = [
    (1.0, 1.0, 1.0, 1.0),
    (1.1, 2.0, 2.2, 2.0),
    (1.5, 1.0, 1.2, 0.0),
    (0.5, 1.0, 0.5, 1.0),
    (1.0, -1.0, -1.0, -1.0),
    (0.5, -1.0, -0.8, 0.0),
    (1.5, -1.0, -1.5, -1.0),
    (1.5, 0.0, 0.0, 0.0),
]


# One for all tests: every slider that moves draws the picture.
only_explorer = cache(clip_explorer)


def at(ratio: float, advantage: float, clip_range: float = 0.2):
    explorer = only_explorer()
    explorer.ratio.value, explorer.advantage.value = ratio, advantage
    explorer.clip_range.value = clip_range
    return explorer


@pytest.mark.parametrize(("ratio", "advantage", "objective", "slope"), BY_HAND)
def test_objective_and_slope_are_those_by_hand(ratio, advantage, objective, slope):
    found = clipped_surrogate(torch.tensor([ratio]), advantage, 0.2)
    assert [value.item() for value in found] == pytest.approx([objective, slope])


def test_it_is_what_the_policy_loss_of_ppo_computes():
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    old = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    advantages = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    loss = clipped_policy_loss(logprobs, old, advantages, torch.ones(5, 7), 0.3).loss
    ratio = (logprobs - old).detach().exp()
    objective, slope = clipped_surrogate(ratio, advantages, 0.3)
    assert torch.allclose(-objective.mean(), loss)
    # d ratio / d log-probability is the ratio itself.
    assert torch.allclose(-slope * ratio / 35, torch.autograd.grad(loss, logprobs)[0])


def test_never_above_either_term_and_unclipped_at_once_for_a_wide_range():
    ratio, advantage = torch.linspace(0, 2.5, 51), torch.linspace(-2, 2, 41)[:, None]
    objective, slope = clipped_surrogate(ratio, advantage, 0.2)
    assert objective.shape == slope.shape == (41, 51)
    assert (objective <= ratio * advantage + 1e-6).all()
    assert (objective <= ratio.clamp(0.8, 1.2) * advantage + 1e-6).all()
    wide, slope = clipped_surrogate(ratio, advantage, 2.0)
    assert torch.allclose(wide, ratio * advantage)
    assert torch.allclose(slope, advantage.expand(41, 51))


def test_inputs_out_of_range_are_refused():
    with pytest.raises(ValueError, match="clip_range=0 must be above 0"):
        clipped_surrogate(torch.ones(2), 1.0, 0)
    with pytest.raises(ValueError, match=r"ratio=-0.5 must be at least 0"):
        clipped_surrogate(torch.tensor([1.0, -0.5]), 1.0, 0.2)


@pytest.mark.parametrize(
    ("ratio", "advantage", "words"),
    [
        (1.1, 1.0, "gradient flows (slope 1.00): r = 1.10 lies within 0.80 to 1.20"),
        (1.5, 1.0, "No gradient: r = 1.50 is above 1 + ε = 1.20, and A wants the action likelier"),
        (0.5, -1.0, "No gradient: r = 0.50 is below 1 - ε = 0.80, and A wants the action less"),
        (1.5, -1.0, "(slope -1.00): r = 1.50 is above 1 + ε = 1.20, but A wants the action less"),
        (0.5, 1.0, "(slope 1.00): r = 0.50 is below 1 - ε = 0.80, but A wants the action likelier"),
        (1.5, 0.0, "No gradient: the advantage is 0"),
    ],
)
def test_words_say_whether_a_gradient_flows_and_why(ratio, advantage, words):
    explorer = at(ratio, advantage)
    objective, slope = clipped_surrogate(torch.tensor(ratio), advantage, 0.2)
    assert explorer.objective == pytest.approx(objective.item())
    assert explorer.slope == slope.item()
    assert f"= {objective.item():.2f}. " in repr(explorer)
    assert words in repr(explorer)


@pytest.mark.parametrize("clip_range", [0.15, 0.35])
@pytest.mark.parametrize("side", [-1, 1])
def test_the_edge_itself_is_not_clipped(clip_range, side):
    # What a slider sends is a sum of steps, off by rounding.
    explorer = at(1 + side * clip_range + side * 1e-12, float(side), clip_range)
    assert explorer.slope == side
    assert "lies within" in repr(explorer)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 1.0), (1.5, -2.0), (0.5, 0.0), (2.5, 2.0)])
def test_the_picture_is_curve_and_surface_with_the_point_on_both(ratio, advantage):
    explorer = at(ratio, advantage, 0.3)
    curve = explorer.draw()
    _, surface, _ = curve.figure.axes
    lines = {line.get_label(): line for line in curve.lines}
    smaller = [
        min(a, b)
        for a, b in zip(lines["r A"].get_ydata(), lines["clip(r) A"].get_ydata(), strict=True)
    ]
    assert lines["L, the smaller"].get_ydata() == pytest.approx(smaller)
    assert curve.lines[-1].get_xydata()[0] == pytest.approx([ratio, explorer.objective])
    assert surface.lines[-1].get_xydata()[0] == pytest.approx([ratio, advantage])
    low, high = curve.get_ylim()
    assert low < explorer.objective < high
    flows = "no gradient" if explorer.slope == 0 else "a gradient flows"
    assert curve.figure.get_suptitle().endswith(f"L = {explorer.objective:.2f}, {flows}")
    close(curve.figure)


def test_hatched_is_where_no_gradient_flows():
    curve = at(1.5, 1.0, 0.3).draw()
    _, hatched = curve.figure.axes[1].collections
    assert hatched.hatches == ["//"]
    (path,) = hatched.get_paths()
    for ratio, advantage, is_flat in [
        (1.5, 1.0, True),
        (2.4, 0.1, True),
        (1.5, -1.0, False),
        (1.2, 1.0, False),
        (0.5, -1.0, True),
        (0.1, -0.1, True),
        (0.5, 1.0, False),
        (0.8, -1.0, False),
    ]:
        assert path.contains_point((ratio, advantage)) == is_flat, (ratio, advantage)
    close(curve.figure)
