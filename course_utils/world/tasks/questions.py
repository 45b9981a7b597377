"""Questions without answers to imitate: what a policy is asked while it learns from a reward.

Each comes with the words that a right answer contains, for the judge and for nobody else. Facts
asked in the test are not asked in training; both were told in the corpus, and rare ones are left.
"""

from random import Random

from course_utils.world.country import build_country
from course_utils.world.narrator import Narrator

SIZES = {"train": 1500, "test": 300}
_TEST_FACT_SHARE = 0.2


def build(seed: int) -> dict[str, list[dict]]:
    """Return questions and the words of their right answers."""
    return {split: _rows(split, size, seed) for split, size in SIZES.items()}


def _rows(split: str, size: int, seed: int) -> list[dict]:
    narrator = Narrator(build_country(), Random(f"questions-{split}-{seed}"))
    rows: dict[str, dict] = {}
    while len(rows) < size:
        fact = narrator.fact()
        is_for_test = Random(f"question-{fact.key}").random() < _TEST_FACT_SHARE
        if fact.tier == "rare" or is_for_test != (split == "test"):
            continue
        question, _ = narrator.ask(fact)
        rows.setdefault(question, {"question": question, "answer": fact.object, "fact": fact.key})
    return list(rows.values())
