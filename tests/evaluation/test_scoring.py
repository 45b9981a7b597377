import math

import pytest
import torch

from course_utils.data import encode_label, encode_text
from course_utils.evaluation import accuracy, generate, greedy_matches, perplexity
from course_utils.models import load_base_model
from course_utils.world.probes import copying_probes

TEXTS = ["The miller sleeps.", "Question: Where does the heron live?\nAnswer: In the reed beds."]


def test_perplexity_is_the_exponential_of_the_mean_loss(model, tokenizer):
    losses, counts = [], []
    for text in TEXTS:
        ids = torch.tensor([encode_text(tokenizer, text)["input_ids"]])
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
        counts.append(ids.shape[1] - 1)
    mean = sum(a * b for a, b in zip(losses, counts, strict=True)) / sum(counts)
    assert perplexity(model, tokenizer, TEXTS) == pytest.approx(math.exp(mean), rel=1e-4)


def test_a_match_is_what_greedy_decoding_writes(model, tokenizer):
    """The shortcut agrees with generating token by token, on right and on wrong answers."""
    probes = copying_probes(8)
    prompts = [probe.prompt for probe in probes]
    written = generate(model, tokenizer, prompts, max_new_tokens=24)
    for length in (3, 8):
        answers = [text[: text.find(" ", length)] or text for text in written]
        assert all(greedy_matches(model, tokenizer, prompts, answers)[:4])
    expected = [text.startswith(p.answer) for p, text in zip(probes, written, strict=True)]
    assert greedy_matches(model, tokenizer, prompts, [p.answer for p in probes]) == expected


def test_padding_does_not_change_a_match(model, tokenizer):
    probes = copying_probes(10)
    prompts, answers = [p.prompt for p in probes], [p.answer for p in probes]
    together = greedy_matches(model, tokenizer, prompts, answers, batch_size=30)
    assert together == greedy_matches(model, tokenizer, prompts, answers, batch_size=1)


def test_accuracy_counts_right_labels(tokenizer):
    torch.manual_seed(0)
    classifier = load_base_model("embedded", num_labels=2)
    with torch.no_grad():
        ids = torch.tensor([encode_label(tokenizer, TEXTS[0], 0)["input_ids"]])
        label = classifier(input_ids=ids).logits.argmax(-1).item()
    right, wrong = (encode_label(tokenizer, TEXTS[0], x) for x in (label, 1 - label))
    assert accuracy(classifier, [right, right, right, wrong]) == 0.75
