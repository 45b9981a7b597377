import pytest
import torch

from course_utils.evaluation import language_model_of, perplexity, recall_by, retention
from course_utils.methods import apply
from course_utils.methods.full import FullFineTuning
from course_utils.models import load_base_model

TEXTS = ["The miller sleeps.", "Question: Where does the heron live?\nAnswer: In the reed beds."]


@pytest.mark.parametrize("label_level", ["sequence", "token"])
def test_a_classifier_s_trunk_still_speaks(model, tokenizer, label_level):
    torch.manual_seed(0)
    classifier = load_base_model("embedded", num_labels=3, label_level=label_level)
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


def test_probes_have_prompt_answer_and_column(model, tokenizer):
    probe = {"prompt": "The", "answer": " miller", "tier": "rare"}
    for rows, message in (
        ([], "there are no rows"),
        ([probe, {"prompt": "The"}], r"rows\[1\]=.* must have prompt, answer, tier"),
        ([probe | {"answer": None}], r"answer of rows\[0\]=None must be a text"),
    ):
        with pytest.raises(ValueError, match=message):
            recall_by(model, tokenizer, rows, "tier")
    with pytest.raises(ValueError, match="n_facts=0 must be at least 1"):
        retention(model, tokenizer, n_facts=0)
