import itertools

import pytest
import torch
from matplotlib.pyplot import close

from course_utils.memory import architecture_of
from course_utils.methods import LoRAConfig, apply, count_parameters
from course_utils.methods.bottleneck import ACTIVATIONS, BottleneckConfig
from course_utils.show.widgets import AdapterAnatomy, adapter_explorer
from tests.methods.adapters import build
from tests.show.widgets.bundles import check_bundle

LLAMA = architecture_of("Llama-2-7B")
OTHERS = ("Llama-2-7B", "Gemma-3-1B", "OLMo-2-7B", "Llama-3.1-405B")
STATES = [
    ("Llama-2-7B", 16, "houlsby", "gelu"),
    ("Gemma-3-1B", 2, "houlsby", "tanh"),
    ("OLMo-2-7B", 64, "pfeiffer", "silu"),
    ("Llama-3.1-405B", 256, "pfeiffer", "relu"),
]


def at(name, factor, placement, activation):
    explorer = adapter_explorer("SmolLM2-135M", others=OTHERS)
    explorer.model.value, explorer.factor.value = name, factor
    explorer.placement.value, explorer.activation.value = placement, activation
    return explorer


def test_numbers_are_those_by_hand():
    one = AdapterAnatomy(architecture=LLAMA)
    assert one.bottleneck_size == 256
    assert one.parameters_each == 2 * 4096 * 256 + 4096 + 256 == 2_101_504
    assert one.n_adapters == 64
    assert one.n_trained == 134_496_256
    assert one.share == pytest.approx(134_496_256 / (6_738_415_616 + 134_496_256))
    # A rank: q, k, v, o read and write d; gate and up write d_ff, down reads it.
    a_rank = 32 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert one.equal_lora_rank == pytest.approx(134_496_256 / a_rank)


@pytest.mark.parametrize("factor", [1, 3, 16, 40])
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_it_counts_what_trains_in_a_model(factor, placement):
    model = build("llama")
    one = AdapterAnatomy(
        architecture=architecture_of(model), reduction_factor=factor, placement=placement
    )
    apply(model, BottleneckConfig(reduction_factor=factor, placement=placement))
    count = count_parameters(model)
    assert one.n_trained == count.trainable
    assert one.share == pytest.approx(count.share)


def test_lora_of_the_equal_rank_trains_as_many():
    one = AdapterAnatomy(architecture=LLAMA, reduction_factor=8, placement="pfeiffer")
    low, high = (
        sum(LoRAConfig(rank=rank).footprint(LLAMA).sizes(LLAMA))
        for rank in (int(one.equal_lora_rank), int(one.equal_lora_rank) + 1)
    )
    assert low <= one.n_trained < high


def test_pfeiffer_has_half_the_adapters_and_the_second_sublayer_s_only():
    both, second = (
        AdapterAnatomy(architecture=LLAMA, placement=placement)
        for placement in ("houlsby", "pfeiffer")
    )
    assert both.n_trained == 2 * second.n_trained
    assert both.parts()[0] == ["norm", "attention", "adapter", "+"]
    assert second.parts() == [["norm", "attention", "+"], ["norm", "feed-forward", "adapter", "+"]]


def test_norms_stand_where_the_model_has_them():
    sandwich = AdapterAnatomy(architecture=architecture_of("Gemma-3-1B")).parts()
    after = AdapterAnatomy(architecture=architecture_of("OLMo-2-7B")).parts()
    assert sandwich[0] == ["norm", "attention", "adapter", "norm", "+"]
    assert after[1] == ["feed-forward", "adapter", "norm", "+"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"placement": "both"}, "placement='both' must be one of"),
        ({"activation": "sine"}, "activation='sine' must be one of"),
        ({"reduction_factor": 0}, "reduction_factor=0 must be in 1..4096"),
        ({"reduction_factor": 4097}, "reduction_factor=4097 must be in 1..4096"),
    ],
)
def test_choices_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AdapterAnatomy(architecture=LLAMA, **change)


def test_words_and_controls_follow_the_model(model):
    explorer = adapter_explorer(model)
    # 6 layers of width 256: m = 16, two adapters a layer.
    assert "12 adapters of 256 → 16 → 256 with gelu" in repr(explorer)
    assert "2 x 256 x 16 + 256 + 16 = 8,464 parameters, all of them 101,568" in repr(explorer)
    assert "at rank 3.89." in repr(explorer)
    assert explorer.model.options[0] == ("base_model (d = 256, 6 layers)", "base_model")
    assert [factor for _, factor in explorer.factor.options] == [2, 4, 8, 16, 32, 64, 128, 256]
    explorer.model.value = "Llama-2-7B"
    assert "64 adapters of 4,096 → 256 → 4,096" in repr(explorer)
    assert explorer.factor.value == 16


def test_a_narrow_model_limits_the_factor_and_a_name_is_listed_once():
    explorer = adapter_explorer(build("llama"), others=())
    assert [factor for _, factor in explorer.factor.options] == [2, 4, 8, 16, 32]
    assert adapter_explorer(build("llama"), others=(), reduction_factor=999).factor.value == 32
    again = adapter_explorer("Llama-2-7B", others=("Qwen3-0.6B", "meta-llama/Llama-2-7b-hf"))
    assert [name for _, name in again.model.options] == ["Llama-2-7B", "Qwen3-0.6B"]


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("model", "Qwen3-0.6B"),
        ("bottleneck size m", 64),
        ("placement", "pfeiffer"),
        ("activation f", "tanh"),
    ],
)
def test_words_and_picture_follow_every_control(control, value):
    explorer = adapter_explorer(LLAMA)
    words, picture = repr(explorer), explorer.picture.value
    explorer.controls[control].value = value
    assert repr(explorer) != words
    assert explorer.picture.value.split("alt=")[0] != picture.split("alt=")[0]


@pytest.mark.parametrize("state", STATES)
def test_names_do_not_hide_one_another_and_the_adapter_is_to_scale(state):
    explorer = at(*state)
    one = explorer.anatomy
    ax = explorer.draw()
    ax.figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in ax.texts if text.get_text()]
    for (name, box), (other, another) in itertools.combinations(boxes, 2):
        assert not box.overlaps(another), (name, other)
    names = [name for name, _ in boxes]
    assert names.count("adapter") == one.n_adapters / one.architecture.n_layers
    assert {f"{one.n_trained:,}", f"{one.share:.2%}", f"{one.equal_lora_rank:.3g}"} <= set(names)
    down, up = (
        patch.get_xy()
        for patch in ax.patches
        if len(patch.get_path().vertices) == 5 and hasattr(patch, "get_closed")
    )
    d, m = one.architecture.d_model, one.bottleneck_size
    assert (down[2][1] - down[3][1]) / (down[1][1] - down[0][1]) == pytest.approx(m / d)
    assert (up[1][1] - up[0][1]) / (up[2][1] - up[3][1]) == pytest.approx(m / d)
    title = ax.get_title(loc="left")
    assert title.startswith(f"{one.n_adapters} adapters train {one.share:.2%} of {state[0]}")
    close(ax.figure)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_curve_is_the_activation(activation):
    ax = at("Llama-2-7B", 16, "houlsby", activation).draw()
    (curve,) = (line for line in ax.lines if len(line.get_xdata()) == 61)
    height = torch.as_tensor(curve.get_ydata()) - 16
    expected = ACTIVATIONS[activation](torch.linspace(-3, 3, 61))
    assert torch.allclose(height / height[-1], expected / expected[-1], atol=1e-5)
    close(ax.figure)


def test_frozen_and_trained_have_a_fill_each():
    from course_utils.show.palette import GRID, method_style

    ax = at("Llama-2-7B", 16, "houlsby", "gelu").draw()
    fills = [matplotlib_hex(patch) for patch in ax.patches]
    # Two adapters, two projections, one key; two norms, two sublayers, one key.
    assert fills.count(method_style("bottleneck").colour) == 5
    assert fills.count(GRID) == 5
    close(ax.figure)


def matplotlib_hex(patch):
    from matplotlib.colors import to_hex

    return to_hex(patch.get_facecolor()).upper()


def test_one_output_holds_widget_picture_and_text():
    check_bundle(adapter_explorer(LLAMA))
