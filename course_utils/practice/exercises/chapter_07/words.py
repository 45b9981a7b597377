"""Token F1: how far two answers consist of the same words."""

import re
from collections import Counter
from collections.abc import Callable

from course_utils.practice.exercises.check import Check
from course_utils.practice.exercises.compare import expect_close

Words = Callable[[str], list[str]]

# The first pair tells apart all mistakes that are named below: repeated words, articles, capitals,
# punctuation.
_PAIRS = (
    (
        "A red, red Goat met the Red goat, and the fox.",
        "A red goat met the fox, the goat met the hen.",
    ),
    ("Springs.", "red foxes"),
    ("", "Springs."),
    ("Springs.", ""),
    ("The", "a."),
)


def _words(text: str) -> list[str]:
    kept = re.sub(r"[^\w\s]", "", text.lower())
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def _f1(prediction: list[str], reference: list[str]) -> float:
    common = (Counter(prediction) & Counter(reference)).total()
    if not prediction or not reference:
        return float(prediction == reference)
    return 2 * common / (len(prediction) + len(reference))


def _token_f1(prediction: str, reference: str) -> float:
    return _f1(_words(prediction), _words(reference))


def _with_words(words: Words) -> Callable[[str, str], float]:
    return lambda prediction, reference: _f1(words(prediction), words(reference))


def _with_formula(formula: Callable[[int, int, int], float]) -> Callable[[str, str], float]:
    """Return a score of the words in common, the prediction's words and the reference's."""

    def score(prediction: str, reference: str) -> float:
        ours, theirs = _words(prediction), _words(reference)
        if not ours or not theirs:
            return float(ours == theirs)
        common = (Counter(ours) & Counter(theirs)).total()
        return formula(common, len(ours), len(theirs))

    return score


def _set_overlap(prediction: str, reference: str) -> float:
    return _f1(list(set(_words(prediction))), list(set(_words(reference))))


def _counts_repeats(prediction: str, reference: str) -> float:
    ours, theirs = _words(prediction), _words(reference)
    common = sum(word in theirs for word in ours)
    return 2 * common / ((len(ours) + len(theirs)) or 1) if ours or theirs else 1.0


def _only_lowered(text: str) -> list[str]:
    return text.lower().split()


def _keeps_articles(text: str) -> list[str]:
    return re.sub(r"[^\w\s]", "", text.lower()).split()


def _keeps_punctuation(text: str) -> list[str]:
    return [word for word in text.lower().split() if word not in ("a", "an", "the")]


def _keeps_capitals(text: str) -> list[str]:
    kept = re.sub(r"[^\w\s]", "", text).split()
    return [word for word in kept if word.lower() not in ("a", "an", "the")]


def _characters(text: str) -> list[str]:
    return list("".join(_words(text)))


_precision = _with_formula(lambda common, ours, theirs: common / ours)
_recall = _with_formula(lambda common, ours, theirs: common / theirs)
_jaccard = _with_formula(lambda common, ours, theirs: common / (ours + theirs - common))
_plain_mean = _with_formula(lambda common, ours, theirs: (common / ours + common / theirs) / 2)


def _exact_match(prediction: str, reference: str) -> float:
    return float(_words(prediction) == _words(reference))


def _divides_by_zero(prediction: str, reference: str) -> float:
    precision, recall = _precision(prediction, reference), _recall(prediction, reference)
    if not (_words(prediction) and _words(reference)):
        return precision
    return 2 * precision * recall / (precision + recall)


_SLIPS = (
    (_set_overlap, "that is the overlap of two sets: a word that both have twice counts twice"),
    (
        _counts_repeats,
        "a word of the prediction is counted as often as it is written there; at "
        "most as often as the reference has it: the smaller of the two counts",
    ),
    (
        _precision,
        "that is precision alone, the share of the prediction that is right: F1 asks for "
        "the share of the reference that was found, too",
    ),
    (_recall, "that is recall alone: a prediction of all words there are would have 1"),
    (_plain_mean, "that is the plain mean of precision and recall; F1 is the harmonic one"),
    (_jaccard, "that is words in common by words in all (Jaccard); F1 is 2 PR / (P + R)"),
    (_exact_match, "that is exact match, all or nothing"),
    (
        _with_words(str.split),
        "nothing is normalised: capitals, punctuation and articles must not "
        "make two answers differ",
    ),
    (
        _with_words(_only_lowered),
        "capitals are dealt with, but punctuation and articles are still in",
    ),
    (_with_words(_keeps_articles), "the articles (a, an, the) are still in"),
    (
        _with_words(_keeps_punctuation),
        "the punctuation is still in: a word and the word with its full stop are one",
    ),
    (_with_words(_keeps_capitals), "capitals still count: Good and good are one word"),
    (_with_words(_characters), "those are characters in common; the tokens here are words"),
    (
        lambda prediction, reference: 100 * _token_f1(prediction, reference),
        "that is in percent; F1 lies between 0 and 1",
    ),
)
_EMPTY = (
    (1.0, "where no word is left of one answer they have nothing in common: 0"),
    (0.0, "where no word is left of both answers they agree: 1"),
)


def _verify_f1(token_f1: Callable[[str, str], float]) -> None:
    for prediction, reference in _PAIRS:
        slips = [(slip(prediction, reference), sentence) for slip, sentence in _SLIPS]
        is_empty = not (_words(prediction) and _words(reference))
        expect_close(
            token_f1(prediction, reference),
            _token_f1(prediction, reference),
            what=f"F1 of {prediction!r} and {reference!r}",
            slips=[*(_EMPTY if is_empty else ()), *slips],
        )


def _agrees_on_nothing(prediction: str, reference: str) -> float:
    both = _words(prediction) and _words(reference)
    return _token_f1(prediction, reference) if both else 1.0


def _none_is_zero(prediction: str, reference: str) -> float:
    return _token_f1(prediction, reference) if _words(prediction) else 0.0


F1 = Check(
    name="07-f1",
    verify=_verify_f1,
    solution=_token_f1,
    rejects=(
        (_set_overlap, "two sets"),
        (_counts_repeats, "smaller of the two"),
        (_precision, "precision alone"),
        (_recall, "recall alone"),
        (_plain_mean, "harmonic"),
        (_jaccard, "Jaccard"),
        (_exact_match, "all or nothing"),
        (_with_words(str.split), "nothing is normalised"),
        (_with_words(_only_lowered), "capitals are dealt with"),
        (_with_words(_keeps_articles), "articles (a, an, the) are still in"),
        (_with_words(_keeps_punctuation), "punctuation is still in"),
        (_with_words(_keeps_capitals), "capitals still count"),
        (_with_words(_characters), "characters in common"),
        (lambda p, r: 100 * _token_f1(p, r), "in percent"),
        (_agrees_on_nothing, "nothing in common"),
        (_none_is_zero, "they agree"),
        (_divides_by_zero, "ZeroDivisionError"),
    ),
    insight="It gives credit for a part of the answer, which exact match does not, and none for "
    "the order of words.",
)
