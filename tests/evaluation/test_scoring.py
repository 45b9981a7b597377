import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from course_utils.data import IGNORED, encode_label, encode_text
from course_utils.evaluation import (
    accuracy,
    generate,
    greedy_matches,
    perplexity,
    token_scores,
)
from course_utils.models import load_base_model, load_tokenizer
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


class Predicting(nn.Module):
    """Predicts for each token its own id, after ``n_virtual`` places that are nobody's."""

    def __init__(self, n_classes: int, n_virtual: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(n_classes))
        self.n_virtual = n_virtual
        self.config = SimpleNamespace(pad_token_id=0)

    def get_input_embeddings(self) -> nn.Module:
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        logits = self.weight[input_ids]
        return SimpleNamespace(logits=nn.functional.pad(logits, (0, 0, self.n_virtual, 0)))


# Predictions 1 1 2 0 | 2 1 against labels 1 2 2 1 | 2 0; class 3 neither occurs nor is predicted.
SENTENCES = [
    {"input_ids": [3, 1, 1, 2, 0], "labels": [IGNORED, 1, 2, 2, 1]},
    {"input_ids": [3, 2, 1], "labels": [IGNORED, 2, 0]},
]


@pytest.mark.parametrize("n_virtual", [0, 3])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_token_scores_are_those_counted_by_hand(batch_size, n_virtual):
    scores = token_scores(Predicting(4, n_virtual), SENTENCES, batch_size=batch_size)
    assert scores.accuracy == pytest.approx(3 / 6)
    # class 1: one hit, predicted 3 times, there 2 times; class 2: two hits, predicted 2, there 3.
    assert scores.f1 == pytest.approx({1: 2 / 5, 2: 4 / 5})
    assert scores.macro_f1 == pytest.approx(3 / 5)


def test_a_class_that_is_only_predicted_scores_nothing():
    scores = token_scores(Predicting(4), [{"input_ids": [1, 2], "labels": [1, 1]}])
    assert scores.f1 == pytest.approx({1: 2 / 3, 2: 0.0})


def test_class_0_alone_has_an_accuracy_and_no_f1():
    scores = token_scores(Predicting(2), [{"input_ids": [0], "labels": [0]}])
    assert scores.accuracy == 1
    assert math.isnan(scores.macro_f1)


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match=r"no place carries a label: there is nothing to score"):
        token_scores(Predicting(2), [{"input_ids": [1], "labels": [IGNORED]}])


def read(kind: str, model: nn.Module, tokenizer, **options: object) -> object:
    """Ask a model for what this measure says of it."""
    if kind == "perplexity":
        return perplexity(model, tokenizer, **{"texts": TEXTS} | options)
    if kind == "greedy_matches":
        pairs = {"prompts": ["The miller"], "answers": [" sleeps."]}
        return greedy_matches(model, tokenizer, **pairs | options)
    if kind == "generate":
        return generate(model, tokenizer, **{"prompts": TEXTS, "max_new_tokens": 2} | options)
    example = {"input_ids": [1, 2], "labels": 1 if kind == "accuracy" else [1, 1]}
    measure = accuracy if kind == "accuracy" else token_scores
    return measure(model, **{"examples": [example]} | options)


KINDS = {
    "perplexity": "texts",
    "greedy_matches": "prompts",
    "generate": "prompts",
    "accuracy": "examples",
    "token_scores": "examples",
}


@pytest.fixture(scope="module")
def models(tokenizer):
    made = {level: load_base_model("embedded", num_labels=3, label_level=level) for level in LEVELS}
    plain = load_base_model("embedded")
    return dict.fromkeys(KINDS, plain) | {
        "accuracy": made["sequence"],
        "token_scores": made["token"],
    }


LEVELS = ("sequence", "token")


@pytest.mark.parametrize("kind", KINDS)
def test_of_nothing_there_is_no_score(kind: str, models, tokenizer):
    name = KINDS[kind]
    empty = {name: []} | ({"answers": []} if kind == "greedy_matches" else {})
    with pytest.raises(ValueError, match=f"there are no {name}.*: at least 1 is needed"):
        read(kind, models[kind], tokenizer, **empty)
    for wrong in ("text", None, 5):
        with pytest.raises(ValueError, match=f"{name}={wrong!r} must be a list"):
            read(kind, models[kind], tokenizer, **{name: wrong})
    for wrong in (0, 2.5, None, True):
        with pytest.raises(ValueError, match=f"batch_size={wrong} must be"):
            read(kind, models[kind], tokenizer, batch_size=wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_of_logits_that_are_not_finite_nothing_is_the_largest(kind: str, models, tokenizer):
    model = models[kind]
    with torch.no_grad():
        kept = model.model.norm.weight[3].clone()
        model.model.norm.weight[3] = math.nan
    try:
        if kind == "perplexity":
            assert math.isnan(read(kind, model, tokenizer))
        else:
            with pytest.raises(ValueError, match="is nan: nothing can be chosen from logits that"):
                read(kind, model, tokenizer)
    finally:
        with torch.no_grad():
            model.model.norm.weight[3] = kept


def test_texts_that_do_not_fit_a_model_are_told(models, tokenizer):
    for example, message in (
        ({"input_ids": [1, 3072], "labels": 1}, r"token 3072 of text 0 must be in 0..3071"),
        ({"input_ids": [1] * 513, "labels": 1}, "a text of 513 tokens must fit .* of 512 tokens"),
        ({"input_ids": [1, 1], "labels": [1, 2]}, r"labels \(1, 2\), predictions \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            accuracy(models["accuracy"], [example])
    with pytest.raises(ValueError, match=r"label=3 must be in 0..2"):
        token_scores(models["token_scores"], [{"input_ids": [1, 2], "labels": [1, 3]}])


def test_a_classifier_without_padding_reads_each_text_s_own_last_token(models):
    model = models["accuracy"]
    rows = [{"input_ids": [1, 300 + i, *[9] * i], "labels": 0} for i in range(9)]
    model.config.pad_token_id, kept = None, model.config.pad_token_id
    try:
        expected = sum(accuracy(model, [row]) for row in rows) / len(rows)
        assert accuracy(model, rows) == expected
    finally:
        model.config.pad_token_id = kept


def test_a_text_without_a_second_token_predicts_nothing(model):
    tokenizer = load_tokenizer("embedded")
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="1 tokens, none a target"):
        perplexity(model, tokenizer, [""])


def test_a_loss_beyond_all_exponentials_is_an_infinite_perplexity(tokenizer):
    broken = load_base_model("embedded")
    with torch.no_grad():
        broken.model.norm.weight.mul_(1e4)
    assert perplexity(broken, tokenizer, ["The miller sleeps."]) == math.inf
