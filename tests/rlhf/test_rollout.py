import math

import pytest
import torch
from torch import Tensor

from course_utils.rlhf.rollout import Rollout, roll_out, up_to_end
from tests.rlhf.tiny_actors import (
    ACTORS,
    BEGIN,
    CONTEXT,
    END,
    PAD,
    PROMPTS,
    count_words,
    disturb,
    quick,
    shared_actor,
    word_tokenizer,
)


def answer(actor, prompts=PROMPTS, reward=count_words, seed: int = 0, **changes: object) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    return roll_out(actor, word_tokenizer(), prompts, reward, quick(**changes), generator)


@pytest.fixture(scope="module", params=ACTORS)
def actor(request: pytest.FixtureRequest):
    made = ACTORS[request.param]()
    disturb(made)
    return made


def read_alone(actor, rollout: Rollout, row: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Policy's and reference's logits and values before each token of an answer; no padding."""
    ids = rollout.sequences[row][rollout.attention_mask[row] == 1][None]
    n_real = int(rollout.response_mask[row].sum())
    with torch.no_grad():
        logits, values = actor(ids, torch.ones_like(ids))
        reference = actor.reference_logits(ids, torch.ones_like(ids))
    window = slice(-n_real - 1, -1)
    return logits[0, window], reference[0, window], values[0, window], n_real


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_every_token_has_the_log_probability_it_was_drawn_with(actor, temperature: float):
    rollout = answer(actor, temperature=temperature)
    assert rollout.response_mask.sum(dim=1).unique().numel() > 1
    for row, tokens in enumerate(rollout.responses):
        logits, reference, values, n_real = read_alone(actor, rollout, row)
        for ours, some in ((rollout.logprobs, logits), (rollout.reference_logprobs, reference)):
            expected = (some / temperature).log_softmax(-1)
            expected = expected.gather(1, tokens[:n_real, None])[:, 0]
            assert torch.allclose(ours[row, :n_real], expected, atol=1e-5)
            assert (ours[row, n_real:] == 0).all()
        assert torch.allclose(rollout.values[row, :n_real], values, atol=1e-5)


def test_prompts_stand_left_and_answers_right(actor):
    rollout = answer(actor)
    n_new = rollout.response_mask.shape[1]
    for row, prompt in enumerate(PROMPTS):
        words = [int(word[1:]) for word in prompt.split()]
        before = rollout.sequences[row, :-n_new].tolist()
        assert before == [PAD] * (5 - 1 - len(words)) + [BEGIN, *words]
        n_real = int(rollout.response_mask[row].sum())
        after = rollout.responses[row].tolist()
        assert END not in after[: n_real - 1]
        assert after[n_real:] == [PAD] * (n_new - n_real)
        mask = [int(token != PAD) for token in before] + [1] * n_real + [0] * (n_new - n_real)
        assert rollout.attention_mask[row].tolist() == mask


def test_at_the_start_policy_and_reference_are_one():
    for make in ACTORS.values():
        rollout = answer(make())
        assert torch.equal(rollout.logprobs, rollout.reference_logprobs)
        assert (rollout.logprobs < 0).any()


def test_nothing_carries_a_gradient(actor):
    rollout = answer(actor)
    for name in ("logprobs", "reference_logprobs", "values", "scores"):
        assert not getattr(rollout, name).requires_grad


def test_an_answer_goes_up_to_its_first_end_token():
    responses = torch.tensor([[5, END, PAD], [5, 6, 7], [END, END, 5], [5, 6, END]])
    expected = [[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]]
    assert up_to_end(responses, END).tolist() == [[bool(x) for x in row] for row in expected]


def test_the_reward_is_asked_once_with_the_texts(actor):
    calls = []

    def reward(prompts: list[str], answers: list[str]) -> Tensor:
        calls.append((prompts, answers))
        return torch.arange(len(answers))

    rollout = answer(actor, reward=reward)
    (call,) = calls
    assert call == (PROMPTS, rollout.texts)
    assert rollout.scores.tolist() == list(range(len(PROMPTS)))
    for text, tokens in zip(rollout.texts, rollout.responses.tolist(), strict=True):
        assert text.split() == [f"w{t}" for t in tokens if t >= 4]


def test_an_answer_without_an_end_pays_the_penalty(actor):
    free, fined = answer(actor), answer(actor, missing_eos_penalty=2.5)
    has_end = (free.responses == END).any(dim=1)
    assert 0 < has_end.sum() < len(has_end)
    assert torch.equal(free.scores - fined.scores, 2.5 * ~has_end)


def test_the_draws_come_from_the_generator_alone(actor):
    before = torch.get_rng_state()
    assert torch.equal(answer(actor).sequences, answer(actor).sequences)
    assert answer(actor, seed=1).texts != answer(actor).texts
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_names_the_answer(value: float):
    def reward(prompts: list[str], answers: list[str]) -> list[float]:
        return [value if i == 3 else 0.0 for i in range(len(answers))]

    actor = shared_actor()
    text = answer(actor).texts[3]
    with pytest.raises(ValueError, match=rf"the score of answer 3 \('{text}'\) is {value}"):
        answer(actor, reward=reward)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (None, "reward=None must be a function of prompts and answers"),
        (lambda prompts, answers: None, "the reward returned None: there must be one number for"),
        (lambda prompts, answers: ["good"] * 8, r"the reward returned \['good', .* one number for"),
    ],
)
def test_a_reward_gives_numbers(reward: object, message: str):
    with pytest.raises(ValueError, match=message):
        answer(shared_actor(), reward=reward)


@pytest.mark.parametrize("ends", [(2, 7), [7], (2, 7, 9)])
def test_an_answer_ends_at_the_first_of_several_end_tokens(ends: object):
    """In sampling, in the mask, and where a missing end is fined."""
    actor = shared_actor()
    actor.policy.generation_config.eos_token_id = list(ends)
    plain, fined = (
        answer(actor, max_new_tokens=12, missing_eos_penalty=fine) for fine in (None, 5)
    )
    every = {END, *ends}
    lengths = plain.response_mask.sum(dim=1).tolist()
    has_end = []
    for tokens, length in zip(plain.responses.tolist(), lengths, strict=True):
        places = [i for i, token in enumerate(tokens) if token in every]
        has_end.append(bool(places) and places[0] < 12)
        assert length == (places[0] + 1 if places else 12)
        assert tokens[length:] == [PAD] * (len(tokens) - length)
    assert (plain.scores - fined.scores).tolist() == [0.0 if ended else 5.0 for ended in has_end]
    ended_by = {row[n - 1] for row, n in zip(plain.responses.tolist(), lengths, strict=True)}
    assert len(ended_by & every) > 1


@pytest.mark.parametrize("scores", [[1.0] * 7, [[1.0]] * 8, 1.0])
def test_every_answer_needs_one_score(scores: object):
    with pytest.raises(ValueError, match=r"shape .*: there must be one for each of 8 answers"):
        answer(shared_actor(), reward=lambda prompts, answers: scores)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there are no prompts: at least 1 is needed"),
        (["w5", " "], r"prompt 1 is empty \(' '\): it must say something to answer"),
        (
            ["w5", "w6 " * 58],
            "prompt 1 of 59 tokens and max_new_tokens=6 must fit the model's "
            f"context of {CONTEXT} tokens",
        ),
    ],
)
def test_prompts_that_cannot_be_answered_are_told(prompts: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        answer(shared_actor(), prompts=prompts)
