import pytest
import torch

from course_utils.show.widgets import next_token_explorer, next_tokens


def test_next_tokens_are_the_softmax_of_the_last_logits(model, tokenizer):
    found = next_tokens(model, tokenizer, "Once,", count=5)
    ids = tokenizer("Once,", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids).logits[0, -1].softmax(-1).topk(5).values.tolist()
    assert [p for _, p in found] == pytest.approx(expected, rel=1e-4)


def test_temperature_sharpens_and_flattens(model, tokenizer):
    cold, warm, hot = (
        next_tokens(model, tokenizer, "Once,", temperature=t)[0][1] for t in (0.3, 1.0, 2.0)
    )
    assert cold > warm > hot
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
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
