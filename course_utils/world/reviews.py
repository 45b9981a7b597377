"""Reviews with graded sentiment: plain, negated, mixed and ironic, whose sentences agree."""

from course_utils.world.country import lexicon
from course_utils.world.narrator import Narrator

LABELS = ("bad", "mixed", "good")
KINDS = ("plain", "negated", "mixed", "ironic")


def review(narrator: Narrator) -> str:
    """Write a review of two to six sentences that ends, four times in five, in a verdict."""
    label = narrator.pick(LABELS)
    text, _ = graded_review(narrator, label, narrator.pick(kinds_of(label)))
    if narrator.chance(0.8):
        verdicts = narrator.some(lexicon("reviews")["verdicts"][label], 1, 2)
        text = " ".join([text, *(narrator.fill(verdict, {}) for verdict in verdicts)])
    return text


def kinds_of(label: str) -> tuple[str, ...]:
    """Return the kinds of sentence that can carry a label."""
    return {"bad": KINDS, "mixed": ("mixed",), "good": ("plain", "negated", "mixed")}[label]


def graded_review(
    narrator: Narrator, label: str, kind: str, *, words: dict | None = None
) -> tuple[str, str]:
    """Write a review without its verdict.

    Args:
        narrator: Source of every choice.
        label: ``bad``, ``mixed`` or ``good``.
        kind: The telling sentence: ``plain``, ``negated``, ``mixed`` or ``ironic``.
        words: Lexicon to write with; the pretraining's by default.

    Returns:
        The text, and the name of what is reviewed.
    """
    words = words or lexicon("reviews")
    name = narrator.pick(list(words["subjects"]))
    subject, slots = words["subjects"][name], narrator.scene()
    aspects = narrator.some(subject["aspects"], 2, len(subject["aspects"]))
    tones = _tones(narrator, label, kind, len(aspects))
    lines = [narrator.fill(narrator.pick(subject["opening"]), slots)]
    for aspect, (telling, tone) in zip(aspects, tones, strict=False):
        other = narrator.pick([a for a in subject["aspects"] if a != aspect])
        template = narrator.pick(words[telling][tone])
        lines.append(narrator.fill(template, _aspect_slots(narrator, words, aspect, other)))
    return " ".join(lines), name


def telling_sentence(narrator: Narrator, subject: str, template: str, words: dict) -> str:
    """Fill a template with words about two aspects of a subject."""
    aspect, other = narrator.some(words["subjects"][subject]["aspects"], 2, 2)
    return narrator.fill(template, _aspect_slots(narrator, words, aspect, other))


def _tones(narrator: Narrator, label: str, kind: str, count: int) -> list[tuple[str, str]]:
    """Return each sentence's kind and label; praise and blame balance in a mixed review."""
    if label == "mixed":
        balanced = narrator.some([("plain", "good"), ("plain", "bad")], 2, 2)
        return balanced if narrator.chance(0.5) else [("mixed", "mixed")]
    repeated = "plain" if kind == "mixed" else kind
    rest = [(narrator.pick(("plain", "plain", repeated)), label) for _ in range(count - 1)]
    return [(kind, label), *rest]


def _aspect_slots(narrator: Narrator, words: dict, aspect: str, other: str) -> dict[str, str]:
    """Return words of praise and blame for one aspect (g, b) and for another (xg, xb)."""
    first, second = words["aspects"][aspect], words["aspects"][other]
    g, g2 = narrator.some(first["good"], 2, 2)
    b, b2 = narrator.some(first["bad"], 2, 2)
    return {
        "noun": narrator.pick(first["nouns"]),
        "noun2": narrator.pick(second["nouns"]),
        "g": g,
        "g2": g2,
        "b": b,
        "b2": b2,
        "xg": narrator.pick(second["good"]),
        "xb": narrator.pick(second["bad"]),
        "ge": narrator.pick(first["good_events"]),
        "be": narrator.pick(first["bad_events"]),
    }
