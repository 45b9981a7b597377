"""The country: its people, towns, animals, trades, goods, dishes and events, and their facts.

All of it follows from one seed. The facts are the ground truth that recall, forgetting and
instruction following are measured against.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

import yaml

from course_utils.paths import data_dir
from course_utils.world.grammar import pick, pick_some

TIER_WEIGHTS = {"frequent": 10.0, "middling": 3.0, "rare": 0.35}
_PRONOUNS = {
    "f": {"he": "she", "his": "her", "him": "her", "himself": "herself"},
    "m": {"he": "he", "his": "his", "him": "him", "himself": "himself"},
    "n": {"he": "it", "his": "its", "him": "it", "himself": "itself"},
}


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Something facts are about.

    Args:
        kind: ``person``, ``town``, ``animal``, ``trade``, ``good``, ``dish`` or ``event``.
        name: Full name.
        gender: ``f``, ``m`` or ``n``.
        tier: ``frequent``, ``middling`` or ``rare``: how often the corpus speaks of it.
    """

    kind: str
    name: str
    gender: str = "n"
    tier: str = "frequent"

    @property
    def short_name(self) -> str:
        """First name of a person, else the name."""
        return self.name.split()[0] if self.kind == "person" else self.name

    def slots(self, name: str | None = None) -> dict[str, str]:
        """Return the subject slots of a template, under ``name`` (the full name by default)."""
        name = name or self.name
        forms = _PRONOUNS[self.gender]
        return {
            "s": name,
            "poss": f"{name}'" if name.endswith("s") else f"{name}'s",
            **forms,
            "He": forms["he"].capitalize(),
            "His": forms["his"].capitalize(),
        }


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One relation between a subject and an object, with the words that express it."""

    subject: Entity
    relation: str
    object: str

    @property
    def tier(self) -> str:
        """How often the corpus states the fact: its subject's tier."""
        return self.subject.tier

    @property
    def key(self) -> str:
        """Identify the fact, as in ``person.trade/Mira Tolen``."""
        return f"{self.relation}/{self.subject.name}"


@dataclass(frozen=True, kw_only=True)
class Country:
    """The ground truth.

    Args:
        entities: Every entity, by kind.
        facts: Every fact, in a fixed order.
        by_subject: The facts of each entity, by its name.
    """

    entities: dict[str, tuple[Entity, ...]]
    facts: tuple[Fact, ...]
    by_subject: dict[str, tuple[Fact, ...]] = field(repr=False)

    def lookup(self, subject: str, relation: str) -> str:
        """Return the object of a fact.

        Raises:
            KeyError: If there is no such fact.
        """
        for fact in self.by_subject[subject]:
            if fact.relation == relation:
                return fact.object
        raise KeyError(f"no fact {relation!r} about {subject!r}")


@cache
def lexicon(name: str) -> dict:
    """Return ``data/lexicons/<name>.yaml``."""
    text = (data_dir() / "lexicons" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def stranger(rng: Random, gender: str) -> str:
    """Return a first name built from syllables: a person no fact is about."""
    parts = lexicon("names")["syllables"]
    ending = "female" if gender == "f" else "male"
    return pick(rng, parts["start"]) + pick(rng, parts["middle"]) + pick(rng, parts[ending])


@cache
def build_country(seed: int = 0, n_people: int = 180) -> Country:
    """Generate the country.

    Args:
        seed: Seed of every name, tier and fact.
        n_people: Residents, a third of each tier.
    """
    rng = Random(f"country-{seed}")
    towns = _towns(rng)
    people = _people(rng, n_people)
    things = lexicon("things")
    facts = [*_people_facts(rng, people, towns), *_town_facts(rng, towns)]
    groups: dict[str, tuple[Entity, ...]] = {"person": people, "town": towns}
    for kind, rows, relations in (
        ("animal", things["animals"], ("habitat", "food", "sound", "young")),
        ("trade", things["trades"], ("tool", "material", "workplace")),
    ):
        groups[kind] = tuple(Entity(kind=kind, name=name) for name in rows)
        facts += [
            Fact(subject=entity, relation=f"{kind}.{relation}", object=value)
            for entity in groups[kind]
            for relation, value in zip(relations, rows[entity.name], strict=True)
        ]
    for kind, make in (("good", _good), ("dish", _dish), ("event", _event)):
        names = things[{"good": "goods", "dish": "dishes", "event": "events"}[kind]]
        groups[kind] = _tiered(rng, kind, names)
        for entity in groups[kind]:
            facts += make(rng, entity, groups)
    by_subject: dict[str, list[Fact]] = {}
    for fact in facts:
        by_subject.setdefault(fact.subject.name, []).append(fact)
    return Country(
        entities=groups,
        facts=tuple(facts),
        by_subject={name: tuple(known) for name, known in by_subject.items()},
    )


def _tiered(rng: Random, kind: str, names: Sequence[str]) -> tuple[Entity, ...]:
    tiers = list(TIER_WEIGHTS)
    order = pick_some(rng, names, len(names))
    return tuple(
        Entity(kind=kind, name=name, tier=tiers[i * len(tiers) // len(order)])
        for i, name in enumerate(order)
    )


def _towns(rng: Random) -> tuple[Entity, ...]:
    return _tiered(rng, "town", lexicon("places")["towns"])


def _people(rng: Random, count: int) -> tuple[Entity, ...]:
    names = lexicon("names")
    taken: set[str] = set()
    people = []
    tiers = list(TIER_WEIGHTS)
    while len(people) < count:
        gender = pick(rng, "fm")
        first = pick(rng, names["female" if gender == "f" else "male"])
        name = f"{first} {pick(rng, names['surnames'])}"
        if name not in taken:
            taken.add(name)
            tier = tiers[len(people) * len(tiers) // count]
            people.append(Entity(kind="person", name=name, gender=gender, tier=tier))
    return tuple(people)


def _people_facts(rng: Random, people: Sequence[Entity], towns: Sequence[Entity]) -> list[Fact]:
    things = lexicon("things")
    facts = []
    for person in people:
        others = [other.name for other in people if other is not person]
        values = {
            "trade": pick(rng, list(things["trades"])),
            "town": pick(rng, towns).name,
            "pet": pick(rng, list(things["animals"])),
            "dish": pick(rng, things["dishes"]),
            "instrument": pick(rng, things["instruments"]),
            "month": pick(rng, things["months"]),
            "friend": pick(rng, others),
        }
        facts += [
            Fact(subject=person, relation=f"person.{relation}", object=value)
            for relation, value in values.items()
        ]
    return facts


def _town_facts(rng: Random, towns: Sequence[Entity]) -> list[Fact]:
    places = lexicon("places")
    unique = {
        "product": pick_some(rng, places["products"], len(towns)),
        "inn": pick_some(rng, places["inns"], len(towns)),
    }
    facts = []
    for i, town in enumerate(towns):
        values = {
            "region": pick(rng, places["regions"]),
            "product": unique["product"][i],
            "market_day": pick(rng, lexicon("things")["days"]),
            "river": pick(rng, places["rivers"]),
            "emblem": pick(rng, places["emblems"]),
            "festival": pick(rng, places["festivals"]),
            "inn": unique["inn"][i],
        }
        facts += [
            Fact(subject=town, relation=f"town.{relation}", object=value)
            for relation, value in values.items()
        ]
    return facts


def _good(rng: Random, good: Entity, groups: dict) -> list[Fact]:
    material = pick(rng, lexicon("things")["materials"])
    return [
        Fact(subject=good, relation="good.price", object=str(rng.randrange(2, 60))),
        Fact(subject=good, relation="good.material", object=material),
    ]


def _dish(rng: Random, dish: Entity, groups: dict) -> list[Fact]:
    return [
        Fact(subject=dish, relation="dish.origin", object=pick(rng, groups["town"]).name),
        Fact(
            subject=dish, relation="dish.ingredient", object=pick(rng, lexicon("things")["foods"])
        ),
    ]


def _event(rng: Random, event: Entity, groups: dict) -> list[Fact]:
    return [
        Fact(subject=event, relation="event.year", object=str(rng.randrange(103, 899))),
        Fact(subject=event, relation="event.hero", object=pick(rng, groups["person"]).name),
    ]
