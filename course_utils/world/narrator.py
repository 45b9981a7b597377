"""The narrator: picks characters and facts, and puts them into words."""

from bisect import bisect
from collections import Counter
from itertools import accumulate
from random import Random

from course_utils.world.country import (
    TIER_WEIGHTS,
    Country,
    Entity,
    Fact,
    lexicon,
    stranger,
)
from course_utils.world.grammar import Grammar, join_words, pick, pick_some, sentence, tidy
from course_utils.world.wordings import draw_wording

_KIND_WEIGHTS = {
    "person": 60,
    "town": 14,
    "animal": 7,
    "trade": 6,
    "good": 6,
    "dish": 5,
    "event": 2,
}
_GRAMMAR = Grammar({})


class Narrator:
    """A seeded teller of one document after another.

    Args:
        country: The ground truth.
        rng: Source of every choice.

    Attributes:
        mentions: How often each fact has been told, by :attr:`Fact.key`.
    """

    def __init__(self, country: Country, rng: Random) -> None:
        self.country = country
        self.rng = rng
        self.mentions: Counter[str] = Counter()
        self._kinds = list(_KIND_WEIGHTS)
        self._kind_bounds = list(accumulate(_KIND_WEIGHTS.values()))
        self._bounds = {
            kind: list(accumulate(TIER_WEIGHTS[entity.tier] for entity in entities))
            for kind, entities in country.entities.items()
        }

    def pick(self, items):  # noqa: ANN001, ANN201
        """Return one item."""
        return pick(self.rng, items)

    def some(self, items, low: int, high: int) -> list:  # noqa: ANN001
        """Return ``low`` to ``high`` different items, or all where there are fewer."""
        high = min(high, len(items))
        return pick_some(self.rng, items, self.rng.randrange(min(low, high), high + 1))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.rng.random() < probability

    def entity(self, kind: str | None = None) -> Entity:
        """Return an entity, the frequent ones more often."""
        if kind is None:
            kind = self._kinds[bisect(self._kind_bounds, self.rng.random() * 100)]
        bounds = self._bounds[kind]
        return self.country.entities[kind][bisect(bounds, self.rng.random() * bounds[-1])]

    def fact(self, kind: str | None = None) -> Fact:
        """Return a fact, one about a frequent subject more often."""
        return self.pick(self.country.by_subject[self.entity(kind).name])

    def state(self, fact: Fact, name: str | None = None) -> str:
        """Tell a fact in one of its pretraining wordings, calling its subject ``name``."""
        self.mentions[fact.key] += 1
        return say(fact, draw_wording(fact.relation, "statements", self.rng), self.rng, name)

    def ask(self, fact: Fact) -> tuple[str, str]:
        """Return a question about a fact, in a pretraining wording, and its short answer."""
        self.mentions[fact.key] += 1
        wording = draw_wording(fact.relation, "questions", self.rng)
        return say(fact, wording, self.rng), short_answer(fact)

    def told(self) -> str:
        """Tell any fact."""
        return self.state(self.fact())

    def character(self, gender: str) -> str:
        """Return a first name; one in three is that of a resident."""
        if self.chance(0.33):
            names = lexicon("names")["female" if gender == "f" else "male"]
            return self.pick(names)
        return stranger(self.rng, gender)

    def _four_characters(self) -> dict[str, str]:
        """Return the genders of four different characters, by name."""
        genders = [self.pick("fm"), self.pick("fm")]
        names = {self.character(gender): gender for gender in genders}
        while len(names) < 4:
            gender = self.pick("fm")
            names.setdefault(self.character(gender), gender)
        return names

    def scene(self) -> dict[str, str]:
        """Return fresh slots: two characters, their things, places, days and prices."""
        things, rng = lexicon("things"), self.rng
        names = self._four_characters()
        item, item2 = pick_some(rng, things["goods"], 2)
        edible, edible2 = pick_some(rng, things["edibles"], 2)
        day, day2 = pick_some(rng, things["days"], 2)
        weather, weather2 = pick_some(rng, things["weather"], 2)
        price = rng.randrange(3, 60)
        slots = {
            **_cast(names, self.pick(list(names)[:2])),
            "town": self.entity("town").name,
            "item": item,
            "item2": item2,
            "food": edible,
            "food2": edible2,
            "a_food": self.pick(things["presents"]),
            "food_bit": self.pick(things["morsels"]),
            "animal": self.pick(list(things["animals"])),
            "animal_keeper": self.pick(things["keepers"]),
            "colour_animal": self.pick(things["fur"]),
            "petname": self.pick(things["pet_names"]),
            "colour": self.pick(things["colours"]),
            "trade": self.pick(list(things["trades"])),
            "day": day,
            "day2": day2,
            "month": self.pick(things["months"]),
            "weather": weather,
            "weather2": weather2,
            "inn": self.pick(lexicon("places")["inns"]),
            "dish": self.pick(things["dishes"]),
            "instrument": self.pick(things["instruments"]),
            "price": str(price),
            "price2": str(price + rng.randrange(2, 40)),
        }
        slots["list"] = join_words([f"a {thing}" for thing in self.some(things["goods"], 2, 5)])
        for name in ("list", "day", "weather", "dish"):
            slots[name.capitalize()] = tidy(slots[name])
        return slots

    def fill(self, template: str, slots: dict[str, str]) -> str:
        """Expand a template and tidy the sentence."""
        return sentence(_GRAMMAR.fill(template, self.rng, slots))

    def with_facts(self, slots: dict[str, str]) -> dict[str, str]:
        """Return ``slots`` with two true sentences, and a true question with its answers, added."""
        asked = self.fact()
        question, answer = self.ask(asked)
        return {
            **slots,
            "fact": self.told(),
            "fact2": self.told(),
            "question": question,
            "question_low": question[0].lower() + question[1:],
            "answer": answer,
            "reply": self.state(asked),
        }


def say(fact: Fact, template: str, rng: Random, name: str | None = None) -> str:
    """Put a fact into the words of ``template``, calling its subject ``name``."""
    slots = {**fact.subject.slots(name), "o": fact.object}
    return sentence(_GRAMMAR.fill(template, rng, slots))


def short_answer(fact: Fact) -> str:
    """Return the short answer to a question about the fact, ``A baker.`` for one."""
    return sentence(lexicon("relations")[fact.relation]["answer"].replace("{o}", fact.object))


def _cast(genders: dict[str, str], winner: str) -> dict[str, str]:
    """Return the slots of four characters, of whom the first or the second wins.

    Args:
        genders: Gender of each character, by name.
        winner: Name of the one who wins.
    """
    h, k, stranger, stranger2 = genders
    loser = k if winner == h else h
    return {
        "h": h,
        "k": k,
        "stranger": stranger,
        "stranger2": stranger2,
        **_pronouns(genders[h], ""),
        **_pronouns(genders[k], "k"),
        "winner": winner,
        "loser": loser,
        "loser_his": _pronouns(genders[loser], "")["his"],
    }


def _pronouns(gender: str, prefix: str) -> dict[str, str]:
    he, his, him = ("she", "her", "her") if gender == "f" else ("he", "his", "him")
    return {
        f"{prefix}he": he,
        f"{prefix}his": his,
        f"{prefix}him": him,
        f"{prefix}He": he.capitalize(),
        f"{prefix}His": his.capitalize(),
    }
