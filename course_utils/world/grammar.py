"""A phrase grammar: templates with choices and slots, expanded by a seeded generator.

``[a|b|c]`` picks one alternative, ``{slot}`` inserts a value, ``<rule>`` expands another phrase
list of the same grammar. Choices nest. ``tidy`` then repairs articles and capital letters.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random

Slots = Mapping[str, str]
Node = Callable[["Grammar", Random, Slots], str]

_TOKEN = re.compile(r"[\[\]|]|\{\w+\}|<\w+>|[^\[\]|{}<>]+")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO]|un(?!i)|um)")
_ONE_PENNY = re.compile(r"\b1 pennies\b")


class Grammar:
    """Named phrase lists that expand into text.

    Args:
        rules: Phrase templates by rule name.
    """

    def __init__(self, rules: Mapping[str, Sequence[str]]) -> None:
        self.rules = rules

    def expand(self, rule: str, rng: Random, slots: Slots) -> str:
        """Expand one template of ``rule``, chosen by ``rng``, with the values in ``slots``.

        Raises:
            KeyError: If the grammar has no such rule, or a template names an unknown slot.
        """
        return self.fill(pick(rng, self.rules[rule]), rng, slots)

    def fill(self, template: str, rng: Random, slots: Slots) -> str:
        """Expand one template."""
        return _compile(template)(self, rng, slots)


def pick(rng: Random, items: Sequence):  # noqa: ANN201
    """Return one item; the same stream of numbers on every Python version."""
    return items[int(rng.random() * len(items))]


def pick_some(rng: Random, items: Sequence, count: int) -> list:
    """Return ``count`` different items in random order.

    Raises:
        ValueError: If there are fewer than ``count`` items.
    """
    if count > len(items):
        raise ValueError(f"count={count} must be at most the number of items, {len(items)}")
    pool = list(items)
    for i in range(count):
        j = i + int(rng.random() * (len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:count]


def tidy(text: str) -> str:
    """Repair ``a``/``an``, double spaces and capitals at sentence starts."""
    text = _ARTICLE.sub(r"\1n ", re.sub(r" {2,}", " ", text.strip()))
    text = _ONE_PENNY.sub("1 penny", text).replace(" ,", ",")
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Make one tidy sentence that ends in a full stop, question mark or exclamation mark."""
    text = tidy(text)
    return text if text[-1:] in ".!?'\"" else text + "."


def join_words(items: Sequence[str], last: str = "and") -> str:
    """Join as English does: ``a``, ``a and b``, ``a, b and c``."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


@cache
def _compile(template: str) -> Node:
    tokens = _TOKEN.findall(template)
    if "".join(tokens) != template:
        raise ValueError(f"template has a stray bracket or brace: {template!r}")
    node, rest = _sequence(tokens, 0, template)
    if rest != len(tokens):
        raise ValueError(f"template has an unopened ']' or a bare '|': {template!r}")
    return node


def _sequence(tokens: list[str], at: int, template: str) -> tuple[Node, int]:
    parts: list[Node] = []
    while at < len(tokens) and tokens[at] not in ("|", "]"):
        if tokens[at] == "[":
            part, at = _choice(tokens, at + 1, template)
        else:
            part, at = _leaf(tokens[at]), at + 1
        parts.append(part)
    if len(parts) == 1:
        return parts[0], at
    return lambda g, rng, slots: "".join([part(g, rng, slots) for part in parts]), at


def _choice(tokens: list[str], at: int, template: str) -> tuple[Node, int]:
    options: list[Node] = []
    while True:
        option, at = _sequence(tokens, at, template)
        options.append(option)
        if at >= len(tokens):
            raise ValueError(f"template has an unclosed '[': {template!r}")
        at += 1
        if tokens[at - 1] == "]":
            return lambda g, rng, slots: pick(rng, options)(g, rng, slots), at


def _leaf(token: str) -> Node:
    if token.startswith("{"):
        name = token[1:-1]
        return lambda g, rng, slots: slots[name]
    if token.startswith("<"):
        rule = token[1:-1]
        return lambda g, rng, slots: g.expand(rule, rng, slots)
    return lambda g, rng, slots: token
