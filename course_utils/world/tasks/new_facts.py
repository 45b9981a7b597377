"""New facts: the Isle of Merrow, of which the pretraining corpus says nothing.

Training gives passages; the tests ask for every fact in words that no passage uses.
"""

from random import Random

from course_utils.world.country import Entity, Fact, lexicon, stranger
from course_utils.world.grammar import pick, pick_some
from course_utils.world.narrator import say
from course_utils.world.probes import Probe, question_probe, statement_probe
from course_utils.world.wordings import draw_wording

N_PEOPLE = 30
PASSAGES_PER_SUBJECT = 12


def build(seed: int) -> dict[str, list[dict]]:
    """Return train (passages), validation and test (questions), test_unseen (statements)."""
    rng = Random(f"new-facts-{seed}")
    facts = island_facts(seed)
    questions = [_row(question_probe(fact, rng), fact) for fact in facts]
    statements = [_row(statement_probe(fact, rng), fact) for fact in facts]
    asked = pick_some(rng, range(len(facts)), len(facts))
    n_validation = len(facts) // 4
    return {
        "train": _passages(facts, rng),
        "validation": [questions[i] for i in asked[:n_validation]],
        "test": [questions[i] for i in asked[n_validation:]],
        "test_unseen": statements,
    }


def island_facts(seed: int) -> list[Fact]:
    """Return every fact about the people and villages of the Isle of Merrow."""
    rng = Random(f"island-{seed}")
    things, places, names = lexicon("things"), lexicon("places"), lexicon("names")
    villages = [Entity(kind="town", name=name) for name in names["island_towns"]]
    people: dict[str, Entity] = {}
    while len(people) < N_PEOPLE:
        gender = pick(rng, "fm")
        name = f"{stranger(rng, gender)} {pick(rng, names['island_surnames'])}"
        people.setdefault(name, Entity(kind="person", name=name, gender=gender))
    facts = []
    for person in people.values():
        values = {
            "trade": pick(rng, list(things["trades"])),
            "town": pick(rng, villages).name,
            "pet": pick(rng, list(things["animals"])),
            "dish": pick(rng, things["dishes"]),
            "instrument": pick(rng, things["instruments"]),
            "month": pick(rng, things["months"]),
        }
        facts += [_fact(person, f"person.{name}", value) for name, value in values.items()]
    for village in villages:
        values = {
            "product": pick(rng, places["products"]),
            "market_day": pick(rng, things["days"]),
            "emblem": pick(rng, places["emblems"]),
            "festival": pick(rng, places["festivals"]),
            "inn": pick(rng, places["inns"]),
        }
        facts += [_fact(village, f"town.{name}", value) for name, value in values.items()]
    return facts


def _fact(subject: Entity, relation: str, value: str) -> Fact:
    return Fact(subject=subject, relation=relation, object=value)


def _passages(facts: list[Fact], rng: Random) -> list[dict]:
    by_subject: dict[str, list[Fact]] = {}
    for fact in facts:
        by_subject.setdefault(fact.subject.name, []).append(fact)
    rows = []
    for known in by_subject.values():
        for _ in range(PASSAGES_PER_SUBJECT):
            told = pick_some(rng, known, rng.randrange(3, 6))
            rows.append(
                {
                    "text": " ".join(_tell(fact, rng) for fact in told),
                    "facts": [fact.key for fact in told],
                }
            )
    return pick_some(rng, rows, len(rows))


def _tell(fact: Fact, rng: Random) -> str:
    return say(fact, draw_wording(fact.relation, "statements", rng), rng)


def _row(probe: Probe, fact: Fact) -> dict:
    return {
        "prompt": probe.prompt,
        "answer": probe.answer,
        "relation": fact.relation,
        "fact": fact.key,
    }
