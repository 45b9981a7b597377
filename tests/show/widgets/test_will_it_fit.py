import math

from course_utils.memory import estimate, format_bytes, known_architectures
from course_utils.methods import FullFineTuning
from course_utils.show.widgets import verdict, will_it_fit


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


def test_every_known_model_has_a_verdict():
    for name in known_architectures():
        needed = estimate(name, FullFineTuning(), batch_size=1, seq_len=128)
        assert math.isfinite(needed.peak_bytes)
        assert verdict(needed, needed.peak_bytes / 1e9 * 2).startswith("It fits")
        assert verdict(needed, needed.peak_bytes / 1e9 * 1.05).startswith("It hardly fits")
        assert verdict(needed, needed.peak_bytes / 1e9 * 0.5).startswith("It does not fit")
