import math

import pytest
import torch

from course_utils import evaluation
from course_utils.data import encode_label, encode_text
from course_utils.evaluation import (
    accuracy,
    generate,
    greedy_matches,
    language_model_of,
    perplexity,
    retention,
)
from course_utils.methods import apply
from course_utils.methods.frozen import FullFineTuning
from course_utils.models import load_base_model, load_tokenizer
from course_utils.world.probes import copying_probes

TEXTS = ["The miller sleeps.", "Question: Where does the heron live?\nAnswer: In the reed beds."]


@pytest.fixture(scope="module")
def model():
    return load_base_model("embedded")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


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


def test_sampling_is_seeded_and_greedy_is_not_sampled(model, tokenizer):
    def write(seed: int, temperature: float) -> list[str]:
        return generate(model, tokenizer, ["Once,"], max_new_tokens=12, temperature=temperature,
                        seed=seed)  # fmt: skip

    assert write(0, 1.0) == write(0, 1.0)
    assert write(0, 1.0) != write(1, 1.0)
    assert write(0, 0.0) == write(1, 0.0)


def test_generation_does_not_disturb_the_caller_s_randomness(model, tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate(model, tokenizer, ["Once,"], max_new_tokens=3, temperature=1.0)
    assert torch.equal(torch.rand(3), expected)


def test_accuracy_counts_right_labels(tokenizer):
    torch.manual_seed(0)
    classifier = load_base_model("embedded", num_labels=2)
    with torch.no_grad():
        ids = torch.tensor([encode_label(tokenizer, TEXTS[0], 0)["input_ids"]])
        label = classifier(input_ids=ids).logits.argmax(-1).item()
    right, wrong = (encode_label(tokenizer, TEXTS[0], x) for x in (label, 1 - label))
    assert accuracy(classifier, [right, right, right, wrong]) == 0.75


def test_a_classifier_s_trunk_still_speaks(model, tokenizer):
    torch.manual_seed(0)
    classifier = load_base_model("embedded", num_labels=3)
    again = language_model_of(classifier)
    assert perplexity(again, tokenizer, TEXTS) == pytest.approx(
        perplexity(model, tokenizer, TEXTS), rel=1e-6
    )
    with torch.no_grad():
        apply(classifier, FullFineTuning()).model.layers[0].mlp.down_proj.weight.zero_()
    assert perplexity(again, tokenizer, TEXTS) != perplexity(model, tokenizer, TEXTS)


def test_a_language_model_is_returned_as_it_is(model):
    assert language_model_of(model) is model


def test_retention_reports_every_tier(model, tokenizer):
    kept = retention(model, tokenizer, n_facts=60, n_texts=10)
    assert set(kept.recall) == {"frequent", "middling", "rare"}
    assert 0 <= kept.overall_recall <= 1 < kept.perplexity < 20


def test_retention_sees_damage(tokenizer):
    broken = load_base_model("embedded")
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    kept = retention(broken, tokenizer, n_facts=60, n_texts=10)
    assert kept.overall_recall < 0.1
    assert kept.perplexity > 20
    assert evaluation.retention is retention
