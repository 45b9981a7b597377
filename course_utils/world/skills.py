"""Documents that practise skills: copy, reverse, sort, count, extract, compare, add."""

from course_utils.world.country import lexicon
from course_utils.world.grammar import pick_some, tidy
from course_utils.world.narrator import Narrator

_POOLS = (
    "goods",
    "goods",
    "foods",
    "foods",
    "animals",
    "trades",
    "colours",
    "days",
    "names",
    "names",
)


def copying(narrator: Narrator) -> str:
    """Repeat, reverse, sort, count or name the ends of lists, two to six times."""
    kinds = ("repeat", "repeat", "reverse", "reverse", "sort", "count", "ends")
    lines = []
    form = None
    for _ in range(narrator.rng.randrange(2, 7)):
        kind = narrator.pick(kinds)
        if form is None or narrator.chance(0.7):
            form = narrator.pick(lexicon("skills")[kind])
        lines.append(narrator.fill(form, _list_slots(narrator)))
    return "\n".join(lines)


def extracting(narrator: Narrator) -> str:
    """Find the name in one to four short notes."""
    forms, notes = lexicon("skills")["extract"], lexicon("skills")["notes"]
    lines = []
    for _ in range(narrator.rng.randrange(1, 5)):
        slots = narrator.scene()
        slots["name"] = slots["stranger"]
        slots["note"] = narrator.fill(narrator.pick(notes), slots)
        lines.append(narrator.fill(narrator.pick(forms), slots))
    return "\n".join(lines)


def arithmetic(narrator: Narrator) -> str:
    """Add, subtract and compare small numbers, two to six times."""
    lines = []
    for _ in range(narrator.rng.randrange(2, 7)):
        form = narrator.pick(
            lexicon("skills")[narrator.pick(("sum", "sum", "difference", "compare"))]
        )
        lines.append(narrator.fill(form, number_slots(narrator)))
    return "\n".join(lines)


def manners(narrator: Narrator) -> str:
    """Turn rude requests into polite ones, and go on with series, one to four times."""
    lines = []
    for _ in range(narrator.rng.randrange(1, 5)):
        slots = narrator.scene()
        if narrator.chance(0.6):
            rude, polite = narrator.pick(lexicon("skills")["polite"])
            slots["thing"] = narrator.pick(
                lexicon("things")["goods"] + lexicon("things")["edibles"]
            )
            slots |= {"rude": narrator.fill(rude, slots), "polite": narrator.fill(polite, slots)}
            lines.append(narrator.fill(narrator.pick(lexicon("skills")["polite_forms"]), slots))
        else:
            shown, following = series(narrator)
            slots |= {"series": ", ".join(shown), "next": following, "Next": tidy(following)}
            lines.append(narrator.fill(narrator.pick(lexicon("skills")["series"]), slots))
    return "\n".join(lines)


def items(narrator: Narrator, count: int) -> list[str]:
    """Return ``count`` different words of one kind: things, animals, trades, colours or names."""
    pool = narrator.pick(_POOLS)
    if pool == "names":
        names: list[str] = []
        while len(names) < count:
            name = narrator.character(narrator.pick("fm"))
            if name not in names:
                names.append(name)
        return names
    return pick_some(narrator.rng, list(lexicon("things")[pool]), count)


def series(narrator: Narrator) -> tuple[list[str], str]:
    """Return three or four members of a known series, and the one that follows."""
    things = lexicon("things")
    pool = narrator.pick(("days", "months", "numbers", "evens"))
    if pool == "evens":
        start, step = narrator.rng.randrange(1, 20), narrator.pick((1, 2, 5))
        row = [str(start + step * i) for i in range(5)]
    else:
        row = things[pool] * 2 if pool != "numbers" else things[pool]
        start = narrator.rng.randrange(len(row) - 5)
        row = row[start : start + 5]
    length = narrator.pick((3, 4))
    return row[:length], row[length]


def number_slots(narrator: Narrator) -> dict[str, str]:
    """Return slots for two different numbers, their sum, and things and people that carry them."""
    slots, rng = narrator.scene(), narrator.rng
    a, b = rng.randrange(1, 20), rng.randrange(1, 20)
    b += a == b
    more, less = ("item", "item2") if a > b else ("item2", "item")
    slots |= {
        "a": str(a),
        "b": str(b),
        "c": str(a + b),
        "dear": slots[more],
        "cheap": slots[less],
        "old": slots["h" if a > b else "k"],
        "far": slots["h" if a > b else "k"],
    }
    return slots


def _list_slots(narrator: Narrator) -> dict[str, str]:
    words = items(narrator, narrator.pick((2, 3, 3, 3, 4, 4, 5, 6)))
    numbers = lexicon("things")["numbers"]
    slots = {
        "h": narrator.character("f"),
        "k": narrator.character("m"),
        "list": ", ".join(words),
        "rev": ", ".join(reversed(words)),
        "sorted": ", ".join(sorted(words, key=str.lower)),
        "n": numbers[len(words)],
        "N": tidy(numbers[len(words)]),
        "first": words[0],
        "last": words[-1],
        "First": tidy(words[0]),
        "Last": tidy(words[-1]),
    }
    return slots | {"List": tidy(slots["list"])}
