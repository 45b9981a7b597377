import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from course_utils.data import chat_prompt, encode_pair, pad_examples, pair_scores
from course_utils.evaluation.calibration import expected_calibration_error
from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_tokenizer
from course_utils.rlhf.losses import bradley_terry_loss
from course_utils.rlhf.masks import last_token_index
from course_utils.rlhf.reward_model import (
    RewardModel,
    check_scores,
    preference_outcomes,
    standardize,
)

PROMPTS = [
    "<|user|>Who mills the flour?<|end|><|assistant|>",
    "<|user|>Hello.<|end|><|assistant|>",
    "<|user|>Name a river of the country.<|end|><|assistant|>",
]
ANSWERS = [" The miller, as long as there is wind.", " Good day to you!", ""]

# The last real token


@pytest.mark.parametrize(
    ("row", "index"),
    [
        ([1, 1, 1], 2),
        ([1, 1, 0], 1),
        ([1, 0, 0], 0),
        ([0, 1, 1], 2),
        ([0, 0, 1], 2),
        ([0, 1, 0], 1),
    ],
)
def test_the_last_real_token_on_either_side_of_the_padding(row: list[int], index: int):
    mask = torch.tensor([row, [1, 1, 1]])
    for kind in (mask, mask.bool(), mask.float()):
        assert last_token_index(kind).tolist() == [index, 2]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=6))
def test_padding_on_the_left_moves_the_last_token_to_the_end(rows: list[tuple[int, bool]]):
    width = max(length for length, _ in rows)
    mask = torch.tensor(
        [[0] * (width - n) + [1] * n if left else [1] * n + [0] * (width - n) for n, left in rows]
    )
    expected = [width - 1 if left else n - 1 for n, left in rows]
    assert last_token_index(mask).tolist() == expected


def test_a_row_without_a_real_token_is_named():
    with pytest.raises(ValueError, match="row 1 of the attention mask has no real token"):
        last_token_index(torch.tensor([[1, 0], [0, 0], [0, 0]]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3), r"attention_mask of shape \(3,\) must be \(batch, seq\)"),
        (torch.ones(2, 0), r"at least one number: attention_mask \(2, 0\)"),
        (torch.tensor([[1.0, 0.5]]), "attention_mask holds 0.5: it must be 0 or 1 everywhere"),
        (torch.tensor([[2, 1]]), "attention_mask holds 2: it must be 0 or 1"),
        (torch.tensor([[1, math.nan]]), "attention_mask holds nan: it must be 0 or 1"),
        ([[1, 1]], r"attention_mask=\[\[1, 1\]\] must be a tensor"),
    ],
)
def test_what_is_no_mask_is_told(mask: object, message: str):
    with pytest.raises(ValueError, match=message):
        last_token_index(mask)


# Bradley-Terry


def test_bradley_terry_by_hand():
    # Differences 2 and -1: (log(1 + e^-2) + log(1 + e)) / 2. Less margins of 1 and 1/2 they are 1
    # and -3/2.
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    expected = (softplus(-2) + softplus(1)) / 2
    assert bradley_terry_loss(chosen, rejected).item() == pytest.approx(expected)
    with_margin = bradley_terry_loss(chosen, rejected, torch.tensor([1.0, 0.5])).item()
    assert with_margin == pytest.approx((softplus(-1) + softplus(1.5)) / 2)


def test_equal_scores_cost_log_2_and_only_differences_count():
    chosen, rejected = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    assert bradley_terry_loss(chosen, chosen).item() == pytest.approx(math.log(2))
    assert torch.allclose(
        bradley_terry_loss(chosen + 4, rejected + 4), bradley_terry_loss(chosen, rejected)
    )
    margin = torch.full((50,), 0.7)
    assert torch.allclose(
        bradley_terry_loss(chosen, rejected, margin), bradley_terry_loss(chosen - 0.7, rejected)
    )


def test_a_pair_that_is_badly_wrong_still_has_a_loss_and_a_gradient():
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    rejected = torch.zeros(2)
    assert not torch.isfinite((chosen - rejected).sigmoid().log().mean())
    loss = bradley_terry_loss(chosen, rejected)
    loss.backward()
    assert loss.item() == pytest.approx(5e3)
    # Minus the probability of the wrong order, over two pairs.
    assert chosen.grad.tolist() == [-0.5, 0]


def test_scores_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"the same: chosen \(3, 1\), rejected \(3,\)"):
        bradley_terry_loss(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="the shapes must be the same"):
        bradley_terry_loss(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"at least one number: chosen \(0,\)"):
        bradley_terry_loss(torch.zeros(0), torch.zeros(0))


# Pairs


def test_pairs_are_counted_in_both_orders():
    probabilities, outcomes = preference_outcomes(torch.tensor([2.0]), torch.tensor([0.0]))
    sigmoid = 1 / (1 + math.exp(-2))
    assert probabilities.tolist() == pytest.approx([sigmoid, 1 - sigmoid])
    assert outcomes.tolist() == [1, 0]


def test_scores_are_calibrated_on_the_pairs_they_generate_and_not_when_doubled():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 20_000, generator=generator)
    is_first = torch.rand(20_000, generator=generator) < (first - second).sigmoid()
    chosen = torch.where(is_first, first, second)
    rejected = torch.where(is_first, second, first)
    errors = [
        expected_calibration_error(*preference_outcomes(k * chosen, k * rejected)) for k in (1, 2)
    ]
    assert errors[0] < 0.01
    assert errors[1] > 0.05


# Scores


def test_standard_scores_have_mean_0_and_deviation_1():
    scores = torch.tensor([1.0, 3.0, 8.0])
    standard = standardize(scores, scores.mean().item(), scores.std().item())
    assert standard.mean().item() == pytest.approx(0, abs=1e-6)
    assert standard.std().item() == pytest.approx(1)
    assert standardize(torch.tensor([7.0]), 3, 2).item() == 2
    for mean, std in ((0, 0), (0, -1), (0, math.nan), (0, math.inf), (math.nan, 1), ("0", 1)):
        with pytest.raises(ValueError, match=r"(mean|std)=\S+ must be"):
            standardize(scores, mean, std)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_laid_to_its_answer(bad: float):
    check_scores(torch.tensor([0.0, 1.0]), ["one", "two"])
    message = rf"the score of answer 1 \('two'\) is {bad}: a reward must be finite"
    with pytest.raises(ValueError, match=message):
        check_scores(torch.tensor([0.0, bad, math.nan]), ["one", "two", "three"])


# The reward model


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def classifier(kind: str = "plain", **options: object) -> torch.nn.Module:
    """A small classifier with dropout, which must not show, and adapters that change scores."""
    settings = {
        "vocab_size": 3072,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "num_labels": 1,
        "attention_dropout": 0.3,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(LlamaConfig(**settings | options))
        if kind == "ours":
            apply(model, LoRAConfig(rank=2, alpha=4))
        elif kind == "peft":
            from peft import LoraConfig, TaskType, get_peft_model

            config = LoraConfig(r=2, task_type=TaskType.SEQ_CLS, target_modules="all-linear")
            model = get_peft_model(model, config)
        for name, parameter in model.named_parameters():
            if name.endswith((".B", "lora_B.default.weight")):
                torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


def by_hand(model: torch.nn.Module, tokenizer, prompt: str, answer: str) -> float:
    """Score one answer without padding, from the hidden state of its last token."""
    ids = [tokenizer.bos_token_id]
    for text in (prompt, answer):
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    backbone = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone.eval()
    with torch.no_grad():
        hidden = backbone.model(input_ids=torch.tensor([ids])).last_hidden_state
        score = backbone.score(hidden[0, -1]).item()
    model.train()
    return score


@pytest.mark.parametrize("kind", ["plain", "ours", "peft"])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_scores_are_read_at_the_last_token_of_each_answer(tokenizer, kind: str, batch_size: int):
    model = classifier(kind)
    reward = RewardModel(model, tokenizer, batch_size=batch_size)
    scores = reward(PROMPTS, ANSWERS)
    expected = [by_hand(model, tokenizer, *pair) for pair in zip(PROMPTS, ANSWERS, strict=True)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) == 3


def test_answers_are_scored_as_reward_models_are_trained(tokenizer):
    model, questions = classifier().eval(), ("Who mills the flour?", "Hello.")
    pairs = [encode_pair(tokenizer, q, *ANSWERS[:2]) for q in questions]
    with torch.no_grad():
        chosen, rejected = pair_scores(model, pad_examples(pairs, tokenizer.pad_token_id))
    reward, prompts = RewardModel(model, tokenizer), [chat_prompt(tokenizer, q) for q in questions]
    assert torch.allclose(reward(prompts, [ANSWERS[0]] * 2), chosen, atol=1e-5)
    assert torch.allclose(reward(prompts, [ANSWERS[1]] * 2), rejected, atol=1e-5)


def test_an_adapter_counts(tokenizer):
    plain, ours = (
        RewardModel(classifier(k), tokenizer)(PROMPTS, ANSWERS) for k in ("plain", "ours")
    )
    assert (plain - ours).abs().min() > 1e-4


def test_a_model_without_a_limit_on_its_context_scores_any_length():
    config = BloomConfig(
        vocab_size=3072, hidden_size=32, n_layer=1, n_head=2, num_labels=1, pad_token_id=0
    )
    reward = RewardModel(BloomForSequenceClassification(config), load_tokenizer("embedded"))
    assert reward(PROMPTS[:2], [" flour" * 90, " flour"]).isfinite().all()


def test_scoring_neither_trains_nor_leaves_a_trace(tokenizer):
    model = classifier()
    scores = RewardModel(model, tokenizer)(PROMPTS, ANSWERS)
    assert not scores.requires_grad
    assert model.training
    assert torch.equal(RewardModel(model.eval(), tokenizer)(PROMPTS, ANSWERS), scores)
    assert not model.training


def test_scores_come_standardised(tokenizer):
    raw = RewardModel(classifier(), tokenizer)
    shifted = RewardModel(raw.model, tokenizer, mean=0.5, std=0.1)
    assert torch.allclose(shifted(PROMPTS, ANSWERS), (raw(PROMPTS, ANSWERS) - 0.5) / 0.1, atol=1e-5)
    for model in (raw, shifted):
        standard = model.standardized_on(PROMPTS, ANSWERS)(PROMPTS, ANSWERS)
        assert standard.mean().item() == pytest.approx(0, abs=1e-4)
        assert standard.std().item() == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match=r"std=0.0 must be above 0"):
        raw.standardized_on(PROMPTS[:1], ANSWERS[:1])


def test_the_answer_whose_score_is_nan_is_named_also_in_a_later_batch(tokenizer):
    model = classifier()
    (token,) = tokenizer("!", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = math.nan
    with pytest.raises(ValueError, match=r"score of answer 1 \(' Good day to you!'\) is nan"):
        RewardModel(model, tokenizer, batch_size=1)(PROMPTS, ANSWERS)


def test_bad_reward_models_and_answers_are_refused(tokenizer):
    for options, message in (
        ({"num_labels": 2}, "num_labels=2 of a reward model must be 1"),
        ({"pad_token_id": 5}, "pad_token_id=5 of the model must be the tokenizer's 0"),
        ({"pad_token_id": None}, "pad_token_id=None of the model must be the tokenizer's 0"),
    ):
        with pytest.raises(ValueError, match=message):
            RewardModel(classifier(**options), tokenizer)
    for options, message in (({"std": 0}, "std=0 must"), ({"batch_size": 0}, "batch_size=0 must")):
        with pytest.raises(ValueError, match=message):
            RewardModel(classifier(), tokenizer, **options)
    reward = RewardModel(classifier(), tokenizer)
    for prompts, answers, message in (
        (PROMPTS, ANSWERS[:2], "3 prompts and 2 responses must be as many"),
        ([], [], "there are no prompts and responses"),
        (PROMPTS, [*ANSWERS[:2], None], r"responses\[2\]=None must be a text"),
    ):
        with pytest.raises(ValueError, match=message):
            reward(prompts, answers)
    with pytest.raises(ValueError, match=r"answer 1 has \d+ tokens .* 1..64, the model's context"):
        reward(PROMPTS[:2], [ANSWERS[0], " flour" * 90])
