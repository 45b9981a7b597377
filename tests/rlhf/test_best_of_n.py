import math

import pytest
import torch

from course_utils.rlhf.best_of_n import best_of_n, best_of_n_kl
from tests.rlhf.tiny_actors import PROMPTS, count_words, tiny_policy, word_tokenizer


def best(n: int, reward=count_words, prompts=PROMPTS, **options: object):
    options = {"max_new_tokens": 6} | options
    return best_of_n(tiny_policy(), word_tokenizer(), prompts, reward, n, **options)


def test_the_best_of_each_prompts_own_answers_is_kept():
    seen: list[tuple[str, str, float]] = []

    def reward(prompts: list[str], answers: list[str]) -> list[float]:
        scores = [float(sum(map(ord, answer)) % 97) for answer in answers]
        seen.extend(zip(prompts, answers, scores, strict=True))
        return scores

    result = best(5, reward, batch_size=7)
    assert len(seen) == 5 * len(PROMPTS)
    for prompt, text, score in zip(PROMPTS, result.texts, result.scores, strict=True):
        own = [(answer, s) for asked, answer, s in seen if asked == prompt]
        assert len(own) == 5
        assert (text, score) in own
        assert score == max(s for _, s in own)


def test_more_answers_score_higher_and_one_is_plain_sampling():
    means = [sum(best(n).scores) / len(PROMPTS) for n in (1, 4, 16)]
    assert means[0] < means[1] <= means[2]


def test_it_is_seeded():
    before = torch.get_rng_state()
    assert best(2) == best(2) != best(2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_bound_is_exact_for_answers_that_are_never_alike():
    """KL of the largest of n uniform numbers from one: the integral of n x^(n-1) log(n x^(n-1))."""
    for n in (1, 2, 7, 64):
        x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        density = n * x ** (n - 1)
        kl = (density * density.clamp(min=1e-300).log()).mean().item()
        assert best_of_n_kl(n) == pytest.approx(kl, abs=1e-4)
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(2) == pytest.approx(math.log(2) - 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0 must be at least 1"),
        ({"n": 2.0}, "n=2.0 must be a whole number"),
        ({"n": 2, "seed": "x"}, "seed='x' must be a whole number"),
        ({"n": 2, "max_new_tokens": None}, "max_new_tokens=None must be a whole number"),
        ({"n": 2, "prompts": "w5"}, "prompts='w5' must be a list"),
        ({"n": 2, "batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"n": 2, "temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"n": 2, "prompts": ["w5", ""]}, "prompt 1 is empty"),
        ({"n": 2, "reward": lambda p, a: [math.nan] * len(a)}, "the score of answer 0 .* is nan"),
    ],
)
def test_bad_input_is_told(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        best(**options)
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        best_of_n_kl(0)
