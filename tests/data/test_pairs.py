import pytest
import torch

from course_utils.data import (
    chat_prompt,
    encode_pair,
    encode_preference,
    join_pair,
    load_task,
    pad_examples,
    pair_batch,
    pair_scores,
)
from course_utils.models import load_base_model, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


@pytest.fixture(scope="module")
def rows():
    return list(load_task("preferences", "validation"))[:5]


def test_an_answer_ends_in_its_own_last_token(tokenizer, rows):
    prompt, answer = rows[0]["prompt"], rows[0]["chosen"]
    ids = encode_preference(tokenizer, prompt, answer)["input_ids"]
    assert tokenizer.decode(ids) == tokenizer.bos_token + chat_prompt(tokenizer, prompt) + answer
    assert ids[-1] == tokenizer(answer)["input_ids"][-1] != tokenizer.eos_token_id


def test_a_long_prompt_loses_its_beginning_not_the_answer(tokenizer):
    ids = encode_preference(tokenizer, "word " * 400, " Mira.", max_length_tokens=32)["input_ids"]
    assert len(ids) == 32
    assert tokenizer.decode(ids).endswith("<|assistant|> Mira.")
    short = encode_preference(tokenizer, "who?", "Mira Tolen. " * 40, max_length_tokens=32)
    assert len(short["input_ids"]) == 32


def test_joining_is_undone_whatever_the_padding(tokenizer, rows):
    pairs = [encode_pair(tokenizer, r["prompt"], r["chosen"], r["rejected"]) for r in rows]
    batch = pair_batch(pad_examples(pairs, 0), 0)
    apart = [
        encode_preference(tokenizer, r["prompt"], r[side])
        for side in ("chosen", "rejected")
        for r in rows
    ]
    expected = pad_examples(apart, 0)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name], expected[name])


def test_a_pair_joins_any_two_texts():
    first, second = {"input_ids": [1, 5, 6], "labels": 0}, {"input_ids": [1, 7], "labels": 0}
    assert join_pair(first, second) == {"input_ids": [1, 5, 6, 1, 7], "labels": 3}


def test_scores_of_pairs_are_those_of_the_answers_alone(tokenizer, rows):
    torch.manual_seed(0)
    model = load_base_model("embedded", num_labels=1)
    pairs = [encode_pair(tokenizer, r["prompt"], r["chosen"], r["rejected"]) for r in rows]
    with torch.no_grad():
        both = pair_scores(model, pad_examples(pairs, 0))
        for side, scores in zip(("chosen", "rejected"), both, strict=True):
            ids = [encode_preference(tokenizer, r["prompt"], r[side])["input_ids"] for r in rows]
            alone = torch.stack([model(torch.tensor([row])).logits[0, 0] for row in ids])
            torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-5)
