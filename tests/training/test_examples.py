"""What a model cannot learn from is refused before the first step, by number and rule."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
)

from course_utils.methods import apply
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.training import train
from tests.training.runs import quick, random_examples, tiny_llama

SMALL = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def tiny_gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=32, **SMALL))


def tiny_bloom() -> BloomForCausalLM:
    return BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=1, n_head=2, **SMALL))


def classifier(**options: object) -> nn.Module:
    return tiny_llama(kind=LlamaForSequenceClassification, num_labels=3, **options)


def tagger() -> nn.Module:
    return tiny_llama(kind=LlamaForTokenClassification, num_labels=2, classifier_dropout=0.0)


def row(ids: object, labels: object = None) -> dict:
    return {"input_ids": ids, "labels": ids if labels is None else labels}


GOOD, MASKED = row([5, 6, 7]), row([5, 6, 7], [-100] * 3)
LLAMA, CLASSES = tiny_llama, [row([5, 6], 0), row([7], 2)]
NOTHING = "no token of the examples is a target"
WRONG: dict[str, tuple[Callable[[], nn.Module], object, dict, str]] = {
    "nothing": (LLAMA, [], {}, "there are no examples"),
    "a mapping": (LLAMA, {0: GOOD}, {}, "must be a list of encoded examples"),
    "classes for a language model": (LLAMA, CLASSES, {}, "the model needs a label for every"),
    "tags for a classifier": (classifier, [GOOD], {}, "example 0 .* the model needs one class"),
    "classes for a tagger": (tagger, CLASSES, {}, "the model needs a label for every token"),
    "a huge class": (classifier, [row([5], 10**30)], {}, "must be a list of whole numbers"),
    "no list": (LLAMA, iter([GOOD]), {}, "must be a list of encoded examples"),
    "no mapping": (LLAMA, [GOOD, [5, 6]], {}, "example 1 must have input_ids and labels"),
    "no labels": (LLAMA, [GOOD, {"input_ids": [5]}], {}, "example 1 must have input_ids and"),
    "no tokens": (LLAMA, [GOOD, row([])], {}, "example 1 has no tokens"),
    "a text": (LLAMA, [GOOD, row("ab")], {}, "input_ids='ab' of example 1 must be a list of whole"),
    "fractions": (LLAMA, [row([1.5, 2.0])], {}, "must be a list of whole numbers"),
    "flags": (LLAMA, [row([True, False])], {}, "must be a list of whole numbers"),
    "None": (LLAMA, [row([3, None])], {}, "must be a list of whole numbers"),
    "huge": (LLAMA, [row([3, 10**30])], {}, "must be a list of whole numbers"),
    "rows in a row": (LLAMA, [row([[3, 4]])], {}, "must be a list of whole numbers"),
    "below the vocabulary": (
        LLAMA,
        [GOOD, row([5, -1])],
        {},
        r"example 1 has the token -1.* 0..59",
    ),
    "beyond the vocabulary": (LLAMA, [GOOD, row([60, 5])], {}, "example 1 has the token 60"),
    "a target beyond": (LLAMA, [row([5, 6], [5, 60])], {}, "example 0 has the label 60"),
    "a target below": (LLAMA, [row([5, 6], [5, -1])], {}, "label -1.* or -100 for none"),
    "fewer labels": (LLAMA, [row([5, 6, 7], [5])], {}, "example 0 has 1 labels for 3 tokens"),
    "more labels": (LLAMA, [row([5], [5, 6])], {}, "example 0 has 2 labels for 1 tokens"),
    "no targets": (LLAMA, [MASKED] * 8, {}, NOTHING),
    "no targets, packed": (LLAMA, [MASKED] * 8, {"packing_length_tokens": 16}, NOTHING),
    "one token each": (LLAMA, [row([5])] * 8, {}, NOTHING),
    "the first only": (LLAMA, [row([5, 6], [5, -100])] * 8, {}, NOTHING),
    "some classes": (LLAMA, [GOOD, row([5], 1)], {}, "example 1 must have labels of the kind"),
    "packed classes": (
        classifier,
        CLASSES,
        {"packing_length_tokens": 16},
        "packed texts apart|packing needs|one answer a row",
    ),
    "no such class": (classifier, [*CLASSES, row([5], 3)], {}, "example 2 has the label 3.* 0..2"),
    "a negative class": (classifier, [row([5], -1)], {}, "label -1"),
    "no padding": (
        lambda: classifier(pad_token_id=None),
        CLASSES,
        {},
        "pad_token_id of the model must be one of its tokens",
    ),
    "a tag beyond": (
        tagger,
        [row([5, 6], [0, 2])],
        {},
        "example 0 has the label 2",
    ),
    "too long": (tiny_gpt2, [GOOD, row([5] * 33)], {}, "example 1 of 33 tokens .*context.* 32"),
    "too long with a prompt": (
        lambda: apply(tiny_gpt2(), PromptTuningConfig(num_virtual_tokens=4)),
        [row([5] * 29)],
        {},
        "leaves room for 28",
    ),
    "rows too long": (
        tiny_gpt2,
        [GOOD],
        {"packing_length_tokens": 33},
        "packing_length_tokens=33 must be at most 32",
    ),
    "neighbours": (tiny_bloom, [GOOD] * 8, {"packing_length_tokens": 16}, "packed texts apart"),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_is_refused_before_anything_trains(what: str):
    make, examples, options, message = WRONG[what]
    model = make()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=message) as caught:
        train(model, examples, quick(**options))
    assert len(str(caught.value)) < 200
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("pad", [None, -1, 60])
def test_a_padding_that_is_no_token_is_not_read(pad: int | None):
    """Padding is masked: a language model trains the same whatever stands there."""
    results = []
    for token in (0, pad):
        model = tiny_llama()
        model.config.pad_token_id = token
        results.append(train(model, random_examples(16), quick()).losses)
    assert results[0] == results[1]


def tags() -> list[dict]:
    """Labels that stand on their own tokens, the first one's often the only one."""
    rows = random_examples(8)
    return [
        r | {"labels": [i % 2, *[-100 if i % 3 else 1] * (len(r["input_ids"]) - 1)]}
        for i, r in enumerate(rows)
    ]


def tiny_bert() -> nn.Module:
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForTokenClassification(config)


@pytest.mark.parametrize(
    ("make", "examples"),
    [
        (tiny_llama, [*random_examples(7), row([5, 6, 7, 8], [-100] * 4)]),
        (tagger, tags()),
        (tiny_bert, tags()),
        (classifier, [row([5 + i] * (1 + i), i % 3) for i in range(8)]),
    ],
    ids=["one without targets", "tags of Llama's", "tags of BERT's", "classes"],
)
@pytest.mark.parametrize("accumulation_steps", [2, 8])
def test_micro_batches_weigh_as_many_targets_as_they_hold(
    make: Callable[[], nn.Module], examples: list[dict], accumulation_steps: int
):
    whole, split = (
        train(make(), examples, quick(accumulation_steps=steps))
        for steps in (1, accumulation_steps)
    )
    assert split.losses == pytest.approx(whole.losses, rel=1e-4)
    assert split.gradient_norms == pytest.approx(whole.gradient_norms, rel=1e-3)


def test_a_batch_without_a_target_names_its_examples():
    """Of one example a step, the third has none."""
    examples = [row([5, 6, 7]), row([6, 7, 8]), row([7, 8, 9], [-100] * 3)]
    model = tiny_llama()
    with pytest.raises(ValueError, match=r"step \d's batch \(examples 2\) is a target: leave out"):
        train(model, examples, quick(batch_size=1))
    assert all(p.grad is None and p.isfinite().all() for p in model.parameters())
    assert math.isfinite(train(model, examples[:2], quick(batch_size=1)).losses[-1])
