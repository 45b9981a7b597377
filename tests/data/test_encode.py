import pytest

from course_utils.data import (
    IGNORED,
    alpaca_prompt,
    chat_prompt,
    encode_answer,
    encode_instruction,
    encode_label,
    encode_preference,
    encode_text,
    encode_word_labels,
    load_task,
)
from course_utils.models import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def test_a_text_is_all_targets_between_begin_and_end(tokenizer):
    example = encode_text(tokenizer, "The miller sleeps.")
    assert example["input_ids"] == example["labels"]
    assert example["input_ids"][0] == tokenizer.bos_token_id
    assert example["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(example["input_ids"], skip_special_tokens=True) == "The miller sleeps."


def test_of_an_answer_only_the_answer_is_a_target(tokenizer):
    example = encode_answer(tokenizer, "Question: who?\nAnswer:", " Mira Tolen.")
    targets = [t for t in example["labels"] if t != IGNORED]
    assert tokenizer.decode(targets) == " Mira Tolen.<|end|>"
    assert len(example["labels"]) == len(example["input_ids"])


def test_a_long_prompt_loses_its_beginning_not_the_answer(tokenizer):
    example = encode_answer(tokenizer, "word " * 400, " Mira.", max_length_tokens=32)
    assert len(example["input_ids"]) == 32
    assert tokenizer.decode([t for t in example["labels"] if t != IGNORED]) == " Mira.<|end|>"


def test_a_labelled_text_has_no_end_token(tokenizer):
    example = encode_label(tokenizer, "Never again.", 2)
    assert example["labels"] == 2
    assert tokenizer.eos_token_id not in example["input_ids"]


def bert_tokenizer(**special):
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "##ly"]
    pieces = BertWordPieceTokenizer(vocab={word: i for i, word in enumerate(words)})
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer, unk_token="[UNK]", **names | special
    )


@pytest.mark.parametrize("limit", [3, 4, 256])
def test_a_labelled_text_has_bert_s_own_special_tokens(limit):
    tokenizer = bert_tokenizer()
    own = tokenizer("good badly bad", truncation=True, max_length=limit)["input_ids"]
    example = encode_label(tokenizer, "good badly bad", 1, max_length_tokens=limit)
    assert example == {"input_ids": own, "labels": 1}
    words = encode_word_labels(
        tokenizer, ["good", "badly", "bad"], [4, 5, 6], max_length_tokens=limit
    )
    assert words["input_ids"] == own
    assert words["labels"] == [IGNORED, *[4, IGNORED, 5, 6][: len(own) - 2], IGNORED]


def test_a_tokenizer_that_leaves_out_what_is_needed_is_refused():
    with pytest.raises(ValueError, match=r"has a classification token, good, but does not put it"):
        encode_label(bert_tokenizer(cls_token="good"), "bad", 1)
    with pytest.raises(ValueError, match=r"the tokenizer has no end token"):
        encode_text(bert_tokenizer(), "good")
    with pytest.raises(ValueError, match=r"max_length_tokens=2 must be at least 3"):
        encode_label(bert_tokenizer(), "good", 1, max_length_tokens=2)


# What leaves nothing to learn


ENCODERS = {
    "text": lambda tokenizer, **k: encode_text(tokenizer, "The mill stands.", **k),
    "answer": lambda tokenizer, **k: encode_answer(tokenizer, "Who?", "Mira.", **k),
    "label": lambda tokenizer, **k: encode_label(tokenizer, "fine", 1, **k),
    "words": lambda tokenizer, **k: encode_word_labels(tokenizer, ["goat"], [1], **k),
    "instruction": lambda tokenizer, **k: encode_instruction(tokenizer, "Add.", "", "3.", **k),
    "preference": lambda tokenizer, **k: encode_preference(tokenizer, "Who?", "Mira.", **k),
}


@pytest.mark.parametrize("limit", [1, 0, -300, 2.5, float("nan"), "8", True, None])
@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_lengths_that_leave_no_target_are_refused(tokenizer, encode, limit):
    with pytest.raises(ValueError, match=f"^max_length_tokens={limit!r} "):
        encode(tokenizer, max_length_tokens=limit)
    # Two tokens leave one target; 2**40 is more than any text.
    assert 0 < len(encode(tokenizer, max_length_tokens=2**40)["input_ids"]) < 40


@pytest.mark.parametrize("label", ["1", 1.7, float("nan"), None, True, -1])
def test_labels_that_are_no_class_are_refused(tokenizer, label):
    with pytest.raises(ValueError, match=r"^label="):
        encode_label(tokenizer, "fine", label)
    with pytest.raises(ValueError, match=r"^label="):
        encode_word_labels(tokenizer, ["fine"], [label])


@pytest.mark.parametrize("text", ["\ud800", None, 5, ["a"], b"a"])
def test_texts_that_are_none_are_refused(tokenizer, text):
    refused = [
        lambda: encode_text(tokenizer, text),
        lambda: encode_answer(tokenizer, text, "a"),
        lambda: encode_answer(tokenizer, "a", text),
        lambda: encode_label(tokenizer, text, 0),
        lambda: encode_word_labels(tokenizer, [text], [0]),
        lambda: encode_instruction(tokenizer, "a", "", text),
        lambda: encode_preference(tokenizer, text, "a"),
    ]
    for encode in refused:
        with pytest.raises(ValueError, match=r"must be a text|half of a character"):
            encode()


# Words


def test_labelled_words_are_tokenised_as_their_text(tokenizer):
    for row in load_task("roles", "validation"):
        example = encode_word_labels(tokenizer, row["words"], row["roles"])
        text = tokenizer(" ".join(row["words"]), add_special_tokens=False)["input_ids"]
        assert example["input_ids"] == [tokenizer.bos_token_id, *text]
        assert len(example["labels"]) == len(example["input_ids"])
        assert [label for label in example["labels"] if label != IGNORED] == row["roles"]


@pytest.mark.parametrize(
    "words", [["To", "Nettie", "Holm,", "Bram", "gave"], ["Zo\u00eb", "\u00e9"]]
)
def test_a_label_stands_where_its_word_ends(tokenizer, words):
    example = encode_word_labels(tokenizer, words, list(range(len(words))))
    assert example["labels"][0] == IGNORED
    for k in range(len(words)):
        read = example["input_ids"][1 : example["labels"].index(k) + 1]
        assert tokenizer.decode(read) == " ".join(words[: k + 1])
    assert len(example["input_ids"]) > len(words) + 1  # some word is more than one token


def test_a_long_text_loses_its_last_labels(tokenizer):
    example = encode_word_labels(tokenizer, ["goat"] * 50, [3] * 50, max_length_tokens=20)
    assert len(example["input_ids"]) == len(example["labels"]) == 20


def test_words_without_labels_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"1 labels for 2 words: there must be one a word"):
        encode_word_labels(tokenizer, ["a", "b"], [0])
    with pytest.raises(ValueError, match=r"word '' must end where a token of the text ends"):
        encode_word_labels(tokenizer, ["", "a"], [0, 1])
    for words in ("goat", [], None):
        with pytest.raises(ValueError, match=r"^words=.* must be a list, one entry a word"):
            encode_word_labels(tokenizer, words, [0])


# Instructions


def targets_of(example: dict) -> list[int]:
    return [t for t in example["labels"] if t != IGNORED]


def test_an_instruction_is_a_chat_that_waits_for_the_answer(tokenizer):
    text = chat_prompt(tokenizer, "Repeat.", "a, b.")
    assert text == "<|user|>Repeat.\na, b.<|end|><|assistant|>"
    assert chat_prompt(tokenizer, "Repeat.") == "<|user|>Repeat.<|end|><|assistant|>"


def test_a_tokenizer_without_a_template_is_told_of_the_plain_form(tokenizer):
    plain = load_tokenizer("embedded")
    plain.chat_template = None
    with pytest.raises(ValueError, match=r"has no chat template: use the plain form, alpaca_pr"):
        chat_prompt(plain, "Repeat.")
    example = encode_instruction(plain, "Repeat.", "", "a.", template="alpaca")
    assert plain.decode(targets_of(example)) == "a.<|end|>"


def test_the_plain_form_is_alpaca_s():
    # The text of train.py in github.com/tatsu-lab/stanford_alpaca, filled in.
    assert alpaca_prompt("Add.", "1 and 2") == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:"
    )
    assert alpaca_prompt("Add.") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nAdd.\n\n### Response:"
    )


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_the_answer_and_its_end_are_the_targets(tokenizer, template):
    for row in load_task("instructions", "validation").select(range(20)):
        asked = (row["instruction"], row["input"])
        example = encode_instruction(tokenizer, *asked, row["output"], template=template)
        prompt = chat_prompt(tokenizer, *asked) if template == "chat" else alpaca_prompt(*asked)
        whole = tokenizer.bos_token + prompt + row["output"] + tokenizer.eos_token
        assert tokenizer.decode(example["input_ids"]) == whole
        n = len(targets_of(example))
        assert example["labels"] == [IGNORED] * (len(example["labels"]) - n) + targets_of(example)
        assert tokenizer.decode(example["input_ids"][-n:]) == row["output"] + tokenizer.eos_token
        assert targets_of(example) == example["input_ids"][-n:]


def test_the_loss_on_everything_changes_the_targets_only(tokenizer):
    row = ("Repeat.", "a, b.", "a, b.")
    everything = encode_instruction(tokenizer, *row, loss_on="all")
    answer = encode_instruction(tokenizer, *row, loss_on="answer")
    assert everything["input_ids"] == answer["input_ids"] == everything["labels"]
    assert answer == encode_instruction(tokenizer, *row)


def test_a_long_input_leaves_the_answer_and_its_end(tokenizer):
    example = encode_instruction(tokenizer, "Repeat.", "word " * 200, "word.", max_length_tokens=40)
    assert len(example["input_ids"]) == 40
    assert tokenizer.decode(targets_of(example)) == "word.<|end|>"


def test_unknown_forms_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"loss_on='output' must be one of answer, all"):
        encode_instruction(tokenizer, "a", "", "b", loss_on="output")
    with pytest.raises(ValueError, match=r"template='plain' must be one of chat, alpaca"):
        encode_instruction(tokenizer, "a", "", "b", template="plain")
