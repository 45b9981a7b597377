import copy
from itertools import pairwise

import pytest
from matplotlib.pyplot import close

from course_utils.data import IGNORED, encode_instruction
from course_utils.show.widgets import loss_mask_explorer, mask_tokens
from course_utils.show.widgets.loss_mask_explorer import lay_out

EXAMPLE = ("Which costs more?", "A belt costs 2 pennies, a hat 16 pennies.", "The hat.")


def learned(tokens) -> str:
    return "".join(token.text for token in tokens if token.has_loss)


@pytest.mark.parametrize("template", ["chat", "alpaca"])
@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_tokens_are_those_that_training_sees(tokenizer, template, loss_on):
    tokens = mask_tokens(tokenizer, *EXAMPLE, template=template, loss_on=loss_on)
    example = encode_instruction(tokenizer, *EXAMPLE, template=template, loss_on=loss_on)
    assert [token.text for token in tokens] == [
        tokenizer.decode([token]) for token in example["input_ids"]
    ]
    # The first label is shifted out of the loss.
    assert [token.has_loss for token in tokens[1:]] == [
        label != IGNORED for label in example["labels"][1:]
    ]
    assert not tokens[0].has_loss


def test_loss_on_the_answer_is_the_answer_and_its_end(tokenizer):
    assert learned(mask_tokens(tokenizer, *EXAMPLE)) == "The hat.<|end|>"
    assert learned(mask_tokens(tokenizer, *EXAMPLE, has_end_token=False)) == "The hat."
    everything = learned(mask_tokens(tokenizer, *EXAMPLE, loss_on="all"))
    assert everything.startswith("<|user|>Which costs more?\nA belt")
    assert everything.endswith("<|end|><|assistant|>The hat.<|end|>")


def test_special_tokens_are_told_from_text(tokenizer):
    tokens = mask_tokens(tokenizer, *EXAMPLE)
    assert [token.text for token in tokens if token.is_special] == [
        "<|begin|>",
        "<|user|>",
        "<|end|>",
        "<|assistant|>",
        "<|end|>",
    ]


@pytest.mark.parametrize("has_end_token", [True, False])
def test_a_long_prompt_loses_its_beginning_and_never_the_answer(tokenizer, has_end_token):
    tokens = mask_tokens(
        tokenizer,
        "the miller " * 50,
        "",
        "The hat.",
        has_end_token=has_end_token,
        max_length_tokens=20,
    )
    assert len(tokens) == 20
    assert learned(tokens) == "The hat." + "<|end|>" * has_end_token
    assert "<|begin|>" not in [token.text for token in tokens]


def test_words_count_and_give_what_is_learned(tokenizer):
    explorer = loss_mask_explorer(tokenizer)
    assert repr(explorer) == "4 of 27 tokens carry loss: 'The hat.<|end|>'"
    explorer.loss_on.value = "all"
    assert repr(explorer).startswith("26 of 27 tokens carry loss: '<|user|>Which")


@pytest.mark.parametrize(
    ("control", "value", "found"),
    [
        ("instruction", "Which is cheaper?", "cheaper"),
        ("input", "A ladle.", "ladle"),
        ("answer", "The ladle.", "ladle"),
        ("template", "alpaca", "Below"),
        ("loss on", "all", "26 of 27"),
        ("end token after the answer", False, "3 of 26"),
    ],
)
def test_boxes_follow_every_control(tokenizer, control, value, found):
    explorer = loss_mask_explorer(tokenizer)
    before = explorer.boxes.value
    explorer.controls[control].value = value
    assert explorer.boxes.value != before
    text = "".join(token.text for token in explorer.tokens) + repr(explorer)
    assert found in text


def test_warnings_stand_by_what_is_wrong(tokenizer):
    no_end = "No end token: the model never learns to stop."
    empty = "The answer is empty: the model learns nothing to say."
    nothing = "No token carries loss: the mean over none is not a number."
    explorer = loss_mask_explorer(tokenizer)
    assert explorer.warnings() == []
    explorer.end_token.value = False
    assert explorer.warnings() == [no_end]
    explorer.output.value = "  "
    assert explorer.warnings() == [empty, no_end]
    explorer.output.value = ""
    assert explorer.warnings() == [empty, no_end, nothing]
    assert f"<b>{no_end}</b>" in explorer.boxes.value
    assert repr(explorer).splitlines()[1:] == [empty, no_end, nothing]
    explorer.loss_on.value = "all"
    assert explorer.warnings() == [empty, no_end]
    explorer.end_token.value = True
    assert explorer.warnings() == [empty]


def test_an_answer_too_long_loses_its_end_token_and_that_is_said(tokenizer):
    explorer = loss_mask_explorer(tokenizer, output="the miller " * 200)
    assert explorer.end_token.value
    assert explorer.warnings() == ["No end token: the model never learns to stop."]


def test_boxes_escape_the_text_and_are_legible_on_any_theme(tokenizer):
    explorer = loss_mask_explorer(tokenizer, "<b>Hi</b> & bye")
    assert "<|user|>" not in explorer.boxes.value
    assert "&lt;|user|&gt;" in explorer.boxes.value
    assert "<b>Hi" not in explorer.boxes.value
    boxes = explorer.boxes.value.split("<span ")[1:]
    # Each box brings its own text colour; two more are the legend.
    assert all("background:#" in box and ";color:#" in box for box in boxes)
    assert len(boxes) == len(explorer.tokens) + 2


def test_without_a_chat_template_there_is_the_plain_one(tokenizer):
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    explorer = loss_mask_explorer(plain)
    assert [value for _, value in explorer.template.options] == ["alpaca"]
    assert "### Response:The hat." in "".join(token.text for token in explorer.tokens)


def test_tokens_are_laid_out_in_rows():
    places = lay_out(["aaa", "bb", "cccc", "d\u23ce", "e", "f" * 12, "g"], row_characters=9)
    assert places == [(0, 0), (0, 5), (1, 0), (1, 6), (2, 0), (3, 0), (4, 0)]


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_the_picture_has_every_token_apart_from_its_neighbours(tokenizer, template):
    explorer = loss_mask_explorer(tokenizer, "Pay $2 or $3?")
    explorer.template.value = template
    ax = explorer.draw()
    ax.figure.draw_without_rendering()
    assert [
        text.get_text().replace("\u2423", " ").replace("\u23ce", "\n") for text in ax.texts
    ] == [token.text for token in explorer.tokens]
    # A token of two dollar signs would be set as a formula.
    assert not any(text.get_parse_math() for text in ax.texts)
    pairs = list(zip(ax.texts, explorer.tokens, strict=True))
    blue, grey = (
        {text.get_bbox_patch().get_facecolor() for text, token in pairs if token.has_loss is wanted}
        for wanted in (True, False)
    )
    assert len(blue) == len(grey) == 1
    assert blue != grey
    boxes = [text.get_bbox_patch().get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert max(box.x1 for box in boxes) < ax.figure.bbox.x1
    assert ax.get_title(loc="left") == f"{explorer.count()} (blue)"
    close(ax.figure)
