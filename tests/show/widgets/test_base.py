import ipywidgets
import matplotlib.pyplot as plt
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from course_utils.show.widgets import (
    clip_explorer,
    direction_explorer,
    loss_mask_explorer,
    next_token_explorer,
    nf4_explorer,
    rank_explorer,
    reward_explorer,
    will_it_fit,
)
from tests.show.widgets.bundles import MOST_BYTES, check_bundle

NORMAL = torch.randn(2, 40, 30, generator=torch.Generator().manual_seed(0))
EXPLORERS = {
    "rank": lambda: rank_explorer({"q & k": NORMAL[0], "up": NORMAL[1]}),
    "nf4": lambda: nf4_explorer(NORMAL),
    "direction": direction_explorer,
    "reward": lambda: reward_explorer(lambda prompts, answers: [len(text) for text in answers]),
    "clip": clip_explorer,
}
CONTROLS = [
    ("rank", "layer", "up"),
    ("rank", "rank", 16),
    ("nf4", "format", "INT3"),
    ("nf4", "block size (weights)", 256),
    ("nf4", "outliers (% of weights)", 1.5),
    ("direction", "update along the row", 0.5),
    ("direction", "update across the row", 0.3),
    ("direction", "DoRA's magnitude m / ‖w‖", 0.7),
    ("reward", "pair", 1),
    ("reward", "question", ""),
    ("reward", "first answer", "No."),
    ("reward", "second answer", "No."),
    ("clip", "ratio r = π(a) / π_old(a)", 0.5),
    ("clip", "advantage A", -1.0),
    ("clip", "clip range ε", 0.4),
]


@pytest.mark.parametrize("make", ["next token", "fit", "loss mask", *EXPLORERS])
def test_one_output_holds_widget_picture_and_text(make, model, tokenizer):
    """A front end without widgets falls back to the picture, one without pictures to the text."""
    others = {
        "next token": lambda: next_token_explorer(model, tokenizer, "Once,"),
        "loss mask": lambda: loss_mask_explorer(tokenizer),
        "fit": will_it_fit,
    }
    check_bundle((EXPLORERS | others)[make](), MOST_BYTES if make in EXPLORERS else 40_000)


@pytest.mark.parametrize(("make", "name", "value"), CONTROLS)
def test_words_and_picture_follow_every_control(make, name, value):
    explorer = EXPLORERS[make]()
    words, picture = repr(explorer), explorer.picture.value
    explorer.controls[name].value = value
    assert repr(explorer) != words
    assert explorer.picture.value.split("alt=")[0] != picture.split("alt=")[0]
    assert plt.get_fignums() == []


@pytest.mark.parametrize("make", EXPLORERS)
def test_controls_are_named_and_wait_until_they_are_let_go(make):
    explorer = EXPLORERS[make]()
    assert list(explorer.controls) == [name for of, name, _ in CONTROLS if of == make]
    *rows, picture = explorer.view.children
    assert picture is explorer.picture
    for (name, control), row in zip(explorer.controls.items(), rows, strict=True):
        label, found = row.children
        assert (label.value, found) == (name, control)
        if not isinstance(control, ipywidgets.Dropdown):
            assert control.continuous_update is False


def test_an_explorer_shows_its_words_below_a_picture_that_has_them_too():
    explorer = EXPLORERS["rank"]()
    assert explorer.picture.value.startswith("<img src='data:image/png;base64,iVBOR")
    words = repr(explorer).replace("&", "&amp;")
    assert "q &amp; k" in words
    assert f"alt='{words}'" in explorer.picture.value
    assert f"{words}</p>" in explorer.picture.value


def test_a_terminal_shows_the_words(capsys):
    """IPython in a terminal has no kernel and no front end: it must not print `VBox(children=`."""
    fit = will_it_fit()
    shell = InteractiveShell.instance()
    try:
        shell.display_formatter.format(fit)
    finally:
        shell.clear_instance()
    assert capsys.readouterr().out.strip() == repr(fit)
