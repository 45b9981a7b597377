import base64
import math
import struct

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from course_utils.memory import FullFootprint, estimate, format_bytes, known_architectures
from course_utils.models import load_base_model, load_tokenizer
from course_utils.widgets import next_token_explorer, next_tokens, verdict, will_it_fit


@pytest.fixture(scope="module")
def model():
    return load_base_model("embedded")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def test_next_tokens_are_the_softmax_of_the_last_logits(model, tokenizer):
    found = next_tokens(model, tokenizer, "Once,", count=5)
    ids = tokenizer("Once,", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids).logits[0, -1].softmax(-1).topk(5).values.tolist()
    assert [p for _, p in found] == pytest.approx(expected, rel=1e-4)


def test_temperature_sharpens_and_flattens(model, tokenizer):
    cold, warm, hot = (next_tokens(model, tokenizer, "Once,", temperature=t)[0][1]
                       for t in (0.3, 1.0, 2.0))  # fmt: skip
    assert cold > warm > hot
    with pytest.raises(ValueError, match="temperature=0 must be greater than 0"):
        next_tokens(model, tokenizer, "Once,", temperature=0)


def test_an_empty_prompt_and_an_endless_one_work(model, tokenizer):
    assert len(next_tokens(model, tokenizer, "")) == 10
    assert len(next_tokens(model, tokenizer, "the miller " * 600)) == 10


def test_a_click_appends_the_token_and_asks_again(model, tokenizer):
    explorer = next_token_explorer(model, tokenizer, "Once,")
    second = explorer.choices[1][0]
    explorer.buttons[1].click()
    assert explorer.text.value == "Once," + second
    assert explorer.choices == next_tokens(model, tokenizer, "Once," + second)
    assert repr(explorer).startswith("After 'Once,")


def test_typing_and_temperature_refresh_the_bars(model, tokenizer):
    explorer = next_token_explorer(model, tokenizer, "Once,")
    before = explorer.bars[0].value
    explorer.temperature.value = 0.3
    assert explorer.bars[0].value != before
    explorer.text.value = "My dear"
    assert explorer.choices == next_tokens(model, tokenizer, "My dear", temperature=0.3)


def test_will_it_fit_follows_its_controls():
    fit = will_it_fit()
    assert "does not fit" in repr(fit)
    assert "optimizer: train fewer" in repr(fit)
    fit.controls["model"].value = "SmolLM2-135M"
    assert "It fits" in repr(fit)
    assert repr(fit) in fit.picture.value.replace("&#x27;", "'")
    fit.controls["batch"].value = 512
    assert "activations" in repr(fit)


def test_the_bar_s_parts_and_the_peak_are_told_apart():
    fit = will_it_fit()
    assert fit.estimate.total_bytes > fit.estimate.peak_bytes
    assert format_bytes(fit.estimate.total_bytes) in fit.picture.value
    assert format_bytes(fit.estimate.peak_bytes) in fit.picture.value
    assert "16 GB</div>" in fit.picture.value


@pytest.mark.parametrize("make", ["explorer", "fit"])
def test_one_output_holds_widget_picture_and_text(make, model, tokenizer):
    """A front end without widgets falls back to the picture, one without pictures to the text."""
    widget = next_token_explorer(model, tokenizer, "Once,") if make == "explorer" else will_it_fit()
    bundle = widget.bundle()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.view.model_id
    assert bundle["text/plain"] == repr(widget)
    png = base64.b64decode(bundle["image/png"])
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG")
    assert 400 < width < 1200
    assert 100 < height < 700
    assert len(png) < 40_000
    assert plt.get_fignums() == []


def test_a_terminal_shows_the_words(capsys):
    """IPython in a terminal has no kernel and no front end: it must not print `VBox(children=`."""
    fit = will_it_fit()
    shell = InteractiveShell.instance()
    try:
        shell.display_formatter.format(fit)
    finally:
        shell.clear_instance()
    assert capsys.readouterr().out.strip() == repr(fit)


def test_every_known_model_has_a_verdict():
    for name in known_architectures():
        needed = estimate(name, FullFootprint(), batch_size=1, seq_len=128)
        assert math.isfinite(needed.peak_bytes)
        assert verdict(needed, needed.peak_bytes / 1e9 * 2).startswith("It fits")
        assert verdict(needed, needed.peak_bytes / 1e9 * 1.05).startswith("It hardly fits")
        assert verdict(needed, needed.peak_bytes / 1e9 * 0.5).startswith("It does not fit")
