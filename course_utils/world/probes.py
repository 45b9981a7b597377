"""Probes of what a model knows and can do: facts in unseen words, and copying."""

from dataclasses import dataclass
from random import Random

from course_utils.world.country import Country, Fact, build_country, lexicon
from course_utils.world.narrator import Narrator, say, short_answer
from course_utils.world.skills import items
from course_utils.world.wordings import draw_wording

COPYING_SKILLS = ("repeat", "extract", "reverse")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A prompt with the one right continuation.

    Args:
        prompt: Text before the answer, without a trailing space.
        answer: What must follow, its leading space or line break included.
        kind: Relation of a fact, or name of a skill.
        form: ``statement``, ``question`` or ``copying``.
        tier: How often the corpus tells the fact; empty for skills.
    """

    prompt: str
    answer: str
    kind: str
    form: str
    tier: str = ""


def fact_probes(
    country: Country | None = None, *, seed: int = 0, in_new_words: bool = False
) -> list[Probe]:
    """Return a statement to complete and a question to answer for every fact.

    Args:
        country: Ground truth; the course's country by default.
        seed: Seed of the choice of wordings.
        in_new_words: Whether to use sentences that share no template with the corpus. By default
            probes use the wordings that were kept out of it.
    """
    rng = Random(f"probes-{seed}")
    statement = new_statement_probe if in_new_words else statement_probe
    question = new_question_probe if in_new_words else question_probe
    return [
        probe
        for fact in (country or build_country()).facts
        for probe in (statement(fact, rng), question(fact, rng))
    ]


def copying_probes(count: int, *, seed: int = 0) -> list[Probe]:
    """Return ``count`` probes of each copying skill, in forms the corpus uses."""
    narrator = Narrator(build_country(), Random(f"copying-{seed}"))
    makers = {"repeat": _repeat, "extract": _extract, "reverse": _reverse}
    return [makers[kind](narrator) for kind in COPYING_SKILLS for _ in range(count)]


def statement_probe(fact: Fact, rng: Random) -> Probe:
    """Return a statement in a wording kept out of the corpus, cut before its object."""
    wording = draw_wording(fact.relation, "statements", rng, held_out=True, object_last=True)
    return _cut(fact, say(fact, wording, rng))


def question_probe(fact: Fact, rng: Random) -> Probe:
    """Return a question in a wording kept out of the corpus, in the corpus's form."""
    wording = draw_wording(fact.relation, "questions", rng, held_out=True)
    return _ask(fact, say(fact, wording, rng))


def new_statement_probe(fact: Fact, rng: Random) -> Probe:
    """Return a statement in words the corpus never uses for it, cut before its object."""
    return _cut(fact, say(fact, rng.choice(lexicon("relations")[fact.relation]["held_out"]), rng))


def new_question_probe(fact: Fact, rng: Random) -> Probe:
    """Return a question in words the corpus never uses for it."""
    template = rng.choice(lexicon("relations")[fact.relation]["held_out_questions"])
    return _ask(fact, say(fact, template, rng))


def _cut(fact: Fact, text: str) -> Probe:
    """Return a probe whose answer ends before the full stop: many sentences go on after it."""
    prompt = text[: text.rindex(fact.object)].rstrip()
    return Probe(
        prompt=prompt,
        answer=text[len(prompt) :].removesuffix("."),
        kind=fact.relation,
        form="statement",
        tier=fact.tier,
    )


def _ask(fact: Fact, question: str) -> Probe:
    return Probe(
        prompt=f"Question: {question}\nAnswer:",
        answer=f" {short_answer(fact)}",
        kind=fact.relation,
        form="question",
        tier=fact.tier,
    )


def _repeat(narrator: Narrator) -> Probe:
    words = ", ".join(items(narrator, narrator.pick((2, 3, 4, 5))))
    return Probe(
        prompt=f"List: {words}.\nThe same list again:",
        answer=f" {words}.",
        kind="repeat",
        form="copying",
    )


def _reverse(narrator: Narrator) -> Probe:
    words = items(narrator, 3)
    backwards = ", ".join(reversed(words))
    return Probe(
        prompt=f"List: {', '.join(words)}.\nBackwards:",
        answer=f" {backwards}.",
        kind="reverse",
        form="copying",
    )


def _extract(narrator: Narrator) -> Probe:
    slots = narrator.scene()
    slots["name"] = slots["stranger"]
    note = narrator.fill(narrator.pick(lexicon("skills")["notes"]), slots)
    return Probe(
        prompt=f"Note: {note}\nName:", answer=f" {slots['name']}.", kind="extract", form="copying"
    )
