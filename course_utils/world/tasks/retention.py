"""Retention: what the base model knew, asked again after tuning to measure what was forgotten."""

from itertools import islice
from random import Random

from course_utils.world.corpus import documents
from course_utils.world.country import TIER_WEIGHTS
from course_utils.world.grammar import pick_some
from course_utils.world.probes import fact_probes

PROBES_PER_TIER = 300
N_TEXTS = 400


def build(seed: int) -> dict[str, list[dict]]:
    """Return facts (prompt, answer, relation, form, tier) and texts (text, genre)."""
    rng = Random(f"retention-{seed}")
    probes = fact_probes(seed=seed)
    rows = []
    for tier in TIER_WEIGHTS:
        of_tier = [probe for probe in probes if probe.tier == tier]
        rows += [
            {
                "prompt": p.prompt,
                "answer": p.answer,
                "relation": p.kind,
                "form": p.form,
                "tier": tier,
            }
            for p in pick_some(rng, of_tier, PROBES_PER_TIER)
        ]
    texts = [
        {"text": document.text, "genre": document.genre}
        for document in islice(documents(seed + 2_000_003, split="held_out"), N_TEXTS)
    ]
    return {"facts": pick_some(rng, rows, len(rows)), "texts": texts}
