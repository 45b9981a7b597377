"""Wordings of a fact: a relation's templates in frames, with one wording in eight kept out.

A wording is a sentence with its choices made and its slots still open. Which ones the corpus never
uses follows from a checksum, so that nobody has to list them.
"""

import re
from functools import cache
from random import Random
from zlib import crc32

from course_utils.world.country import lexicon
from course_utils.world.grammar import Grammar, pick

_SLOTS = {
    name: f"{{{name}}}" for name in ("s", "poss", "he", "He", "his", "His", "him", "himself", "o")
}
_GRAMMAR = Grammar({})
_FRAMED_SHARE, _TAIL_SHARE = 0.4, 0.1
_ONE_IN = 8


def is_held_out(wording: str) -> bool:
    """Return whether the corpus never uses a wording."""
    return crc32(wording.encode()) % _ONE_IN == 0


def draw_wording(
    relation: str, kind: str, rng: Random, *, held_out: bool = False, object_last: bool = False
) -> str:
    """Return one wording of a relation.

    Args:
        relation: As in ``person.trade``.
        kind: ``statements`` or ``questions``.
        rng: Source of every choice.
        held_out: Whether to draw from the wordings the corpus never uses, or from the others.
        object_last: Whether nothing but a unit may follow the object.
    """
    templates = _templates(relation, kind)
    if object_last:
        templates = tuple(t for t in templates if re.search(r"\{o\}( pennies)?\.$", t))
    while True:
        template = _framed(pick(rng, templates), kind, rng, may_have_tail=not object_last)
        wording = _GRAMMAR.fill(template, rng, _SLOTS)
        if is_held_out(wording) == held_out:
            return wording


def _framed(template: str, kind: str, rng: Random, *, may_have_tail: bool) -> str:
    frames, chance = lexicon("frames"), rng.random()
    if chance >= _FRAMED_SHARE:
        return template
    if kind == "questions":
        return pick(rng, frames["question"]).replace("<it>", template)
    if chance < _TAIL_SHARE and may_have_tail:
        return pick(rng, frames["statement_tail"]).replace("<it>", template.removesuffix("."))
    return pick(rng, frames["statement"]).replace("<it>", template)


@cache
def _templates(relation: str, kind: str) -> tuple[str, ...]:
    """Return the templates with small first letters; finished sentences get capitals again."""
    return tuple(_lowered(template) for template in lexicon("relations")[relation][kind])


def _lowered(template: str) -> str:
    if not template.startswith("["):
        return template[0].lower() + template[1:]
    choices, rest = template[1:].split("]", 1)
    return "[" + "|".join(c[:1].lower() + c[1:] for c in choices.split("|")) + "]" + rest


def part_of(values: list, is_unseen: bool) -> list:
    """Return the first two thirds of a list, which training sees, or the rest."""
    at = max(1, round(len(values) * 2 / 3))
    return values[at:] if is_unseen else values[:at]
