import base64
import io
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon
from matplotlib.text import Text
from matplotlib.transforms import BboxBase
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from transformers import LlamaConfig, LlamaForSequenceClassification

from course_utils.cli.notebooks.files import strip_volatile
from course_utils.methods import FrozenFineTuning, FullFineTuning, apply
from course_utils.models.structure import norm_layers, transformer_blocks
from course_utils.show.palette import ACCENT, relative_luminance
from course_utils.show.schematics import draw, drawing_names
from course_utils.show.widgets.base import png

NAMES = drawing_names()
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def pixels(name: str) -> bytes:
    figure = draw(name).figure
    figure.canvas.draw()
    return bytes(figure.canvas.buffer_rgba())


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def filled(ax) -> list:
    """Return the patches in the colour of what trains."""
    return [p for p in ax.patches if to_hex(p.get_facecolor()) == ACCENT.lower()]


def ground(text: Text):
    """Return the smallest shape that holds a text's centre, and None on bare paper."""
    box = text.get_window_extent()
    centre = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    shapes = [p for p in text.axes.patches if isinstance(p, FancyBboxPatch | Circle | Polygon)]
    around = [p for p in shapes if p.get_window_extent().contains(*centre)]
    return min(
        around,
        key=lambda p: p.get_window_extent().width * p.get_window_extent().height,
        default=None,
    )


def lies_in(inner: BboxBase, outer: BboxBase) -> bool:
    return bool(
        outer.x0 <= inner.x0
        and inner.x1 <= outer.x1
        and outer.y0 <= inner.y0
        and inner.y1 <= outer.y1
    )


def contrast(first: str, second: str) -> float:
    """WCAG 2.1, contrast ratio."""
    low, high = sorted((relative_luminance(first), relative_luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_words_neither_meet_nor_leave_the_drawing(name):
    ax = draw(name)
    ax.figure.draw_without_rendering()
    whole = ax.get_window_extent()
    places = [(text, text.get_window_extent()) for text in ax.texts if text.get_text()]
    met = [
        (a.get_text(), b.get_text()) for (a, p), (b, q) in combinations(places, 2) if p.overlaps(q)
    ]
    assert met == []
    assert [text.get_text() for text, place in places if not lies_in(place, whole)] == []
    assert lies_in(ax._left_title.get_window_extent(), ax.figure.bbox)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_stay_inside_and_hold_their_words(name):
    ax = draw(name)
    ax.figure.draw_without_rendering()
    whole = ax.get_window_extent().padded(0.5)
    assert [p for p in ax.patches if not lies_in(p.get_window_extent(), whole)] == []
    for text in filter(Text.get_text, ax.texts):
        if (shape := ground(text)) is not None:
            assert lies_in(text.get_window_extent(), shape.get_window_extent()), text.get_text()


@pytest.mark.parametrize("name", NAMES)
def test_words_can_be_read_on_what_they_stand_on(name):
    ax = draw(name)
    ax.figure.draw_without_rendering()
    for text in ax.texts:
        shape = ground(text)
        colour = "#ffffff" if shape is None else to_hex(shape.get_facecolor())
        assert contrast(to_hex(text.get_color()), colour) >= 4.5, text.get_text()
        assert text.get_fontsize() >= 9


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_is_the_same_on_a_dark_page_and_at_every_time(name):
    light = pixels(name)
    assert set(light[3::4]) == {255}, "the page shows through"
    with plt.style.context("dark_background"):
        assert pixels(name) == light
    assert pixels(name) == light


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_picture_is_small_and_fits_a_page(name):
    output = new_output("display_data", {"image/png": png(draw(name))})
    saved = strip_volatile(new_notebook(cells=[new_code_cell("draw", outputs=[output])]))
    picture = saved.cells[0].outputs[0].data["image/png"]
    assert len(picture) < 30_000
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    assert image.width <= 1024
    assert image.height <= 700


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_gets_the_drawing_in_words(name):
    figure = draw(name).figure
    assert len(figure.alt) >= 60
    notebook = DisplayFormatter()
    notebook.formatters["image/png"].for_type(Figure, lambda shown: b"picture")
    data, metadata = notebook.format(figure)
    assert data == {"image/png": b"picture", "text/plain": figure.alt}
    assert metadata["image/png"]["alt"] == figure.alt


def test_an_unknown_drawing_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"drawing='lorra' must be one of course, frozen, lora"):
        draw("lorra")


def test_the_road_has_the_notebooks_for_stations():
    stations = {text for text in texts(draw("course")) if text.isdigit()}
    assert len(stations) == 11
    assert stations <= {path.name[:2] for path in NOTEBOOKS.glob("*.ipynb")}


def test_what_is_filled_is_what_a_method_trains():
    """Each column of "frozen" against a six-layer classifier that its method was applied to."""
    ax = draw("frozen")
    methods = {
        "full": FullFineTuning(),
        "last two layers": FrozenFineTuning(last_n_layers=2),
        "norms": FrozenFineTuning(train_norms=True),
        "head only": FrozenFineTuning(),
    }
    for text in [text for text in ax.texts if text.get_text() in methods]:
        model = apply(six_layers(), methods[text.get_text()])
        parts = [model.get_input_embeddings(), *transformer_blocks(model), *norm_layers(model)]
        parts.append(model.score)
        trained = [part for part in parts if all(p.requires_grad for p in part.parameters())]
        column = [p for p in filled(ax) if abs(middle(p) - text.get_position()[0]) < 1]
        assert len(column) == len(trained), text.get_text()


def middle(box: FancyBboxPatch) -> float:
    return box.get_x() + box.get_width() / 2


def six_layers() -> LlamaForSequenceClassification:
    sizes = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 1}
    return LlamaForSequenceClassification(LlamaConfig(**sizes, num_hidden_layers=6))


def test_thin_matrices_are_thin():
    """A is flat and B narrow, and W, which they stand beside, is as wide as one, high as other."""
    ax = draw("lora")
    sizes = sorted((p.get_width(), p.get_height()) for p in filled(ax))
    B, key, A = sizes
    assert A[::-1] == B
    assert A[0] == 10 * A[1]
    assert key not in (A, B)
    W = [p for p in ax.patches if isinstance(p, FancyBboxPatch) and p.get_width() == A[0]]
    assert (A[0], B[1]) in [(p.get_width(), p.get_height()) for p in W]


def test_qlora_counts_the_bytes_of_double_quantisation():
    """QLoRA, arXiv:2305.14314, section 3: constants take 0.127 bits a parameter."""
    assert f"{0.127 / 8:.3f} bytes a number" in texts(draw("qlora"))


def test_loss_is_on_the_answer_and_its_end_and_each_is_predicted_from_the_token_before():
    ax = draw("chat_loss")
    with_loss = [p for p in filled(ax) if p.get_height() > 2]
    assert len(with_loss) == 3
    assert texts(ax).count("−100") == 7
    assert texts(ax).count("Two") == texts(ax).count(".") == 2


def test_the_head_reads_no_padding():
    ax = draw("reward_model")
    ax.figure.draw_without_rendering()
    centres = {name: [] for name in ("head", "end", "pad")}
    for text in ax.texts:
        centres.get(text.get_text(), []).append(text.get_position()[0])
    assert centres["head"] == centres["end"]
    assert not set(centres["head"]) & set(centres["pad"])
