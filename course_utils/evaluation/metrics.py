"""Scores of written texts, and where each of them misleads."""

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from course_utils.validation import (
    check_as_many,
    check_count,
    check_number,
    check_rows,
    check_text,
    check_texts,
    plain_list,
)

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class Matches:
    """How many texts are what they should be.

    Args:
        right: Texts that match.
        count: Texts.
    """

    right: int
    count: int

    @property
    def share(self) -> float:
        """Share of the texts that match, 0 to 1."""
        return self.right / self.count


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """How often one side scores higher than the other, ties counted half.

    Args:
        rate: Wins and half the ties, as a share of all comparisons.
        lower: Lower end of the interval.
        upper: Upper end of the interval.
        wins: Comparisons won.
        ties: Comparisons with equal scores.
        losses: Comparisons lost.
    """

    rate: float
    lower: float
    upper: float
    wins: int
    ties: int
    losses: int


def exact_match_by(
    rows: Sequence[Mapping[str, str]], predictions: Sequence[str], column: str
) -> dict[str, Matches]:
    """Count predictions that equal their row's ``output``, grouped by a column such as ``type``.

    White space around a text does not count. Misleads where a right answer has several wordings,
    since all but one are wrong; and the mean over all rows hides a type with few of them.

    Args:
        rows: Rows with an ``output`` and the column.
        predictions: One text a row.
        column: What to group by.

    Raises:
        ValueError: If there is not one prediction a row, or a row lacks its output or the column.
    """
    check_rows("rows", rows, "output", column)
    check_as_many(rows=rows, predictions=predictions)
    check_texts(predictions=predictions)
    groups: dict[str, list[bool]] = defaultdict(list)
    for row, prediction in zip(rows, predictions, strict=True):
        groups[row[column]].append(prediction.strip() == row["output"].strip())
    return {name: Matches(right=sum(m), count=len(m)) for name, m in sorted(groups.items())}


def token_f1(prediction: str, reference: str) -> float:
    """Return the overlap of two texts' words, 0 to 1.

    ``2 P R / (P + R)``, with precision and recall of the words both have, each as often as both
    have it; lower case, without punctuation and articles (Rajpurkar et al., 2016, SQuAD,
    arXiv:1606.05250, section 6.1). Misleads where order or a small word decides: "the dog bit the
    man" and "the man bit the dog" score 1, and a missing "not" costs little.
    """
    check_text("prediction", prediction)
    check_text("reference", reference)
    predicted, expected = _answer_words(prediction), _answer_words(reference)
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))


def bleu(predictions: Sequence[str], *references: Sequence[str]) -> float:
    """Return the BLEU of a set of texts, 0 to 100, as sacrebleu computes it.

    ``100 min(1, exp(1 - r / c)) (p_1 p_2 p_3 p_4)^(1/4)``, with the precisions p_n of n-grams and
    the lengths c and r of predictions and references (Papineni et al., 2002, ACL P02-1040;
    sacrebleu: Post, 2018, arXiv:1804.08771). One number of a whole set, not a mean over texts.
    Misleads on short answers: where no text has four tokens, even the right ones score 0; and
    wherever another wording is as good.

    Args:
        predictions: Texts.
        references: What they should be, one a text; a second sequence gives each a second one.

    Raises:
        ValueError: If there are no references, or not one a prediction.
    """
    import sacrebleu

    if not references:
        raise ValueError("no references: BLEU compares with at least one text each")
    for texts in references:
        check_texts(predictions=predictions, references=texts)
    return sacrebleu.corpus_bleu(list(predictions), [list(texts) for texts in references]).score


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the number of different n-grams of words over the number of words.

    As in Li et al. (2016, arXiv:1510.03055, section 5). Falls as there is more text, so compare
    equal amounts; and words thrown together at random are very distinct.

    Args:
        texts: What a model wrote; n-grams do not reach from one into the next.
        n: Words in an n-gram, at least 1.

    Returns:
        0 (one n-gram over and over, or no words) to 1.

    Raises:
        ValueError: If ``n`` is below 1, or there is no text.
    """
    check_count("n", n)
    check_texts(texts=texts)
    words = [text.split() for text in texts]
    ngrams = {tuple(row[i : i + n]) for row in words for i in range(len(row) - n + 1)}
    return len(ngrams) / max(1, sum(map(len, words)))


def win_rate(
    scores: Sequence[float], reference_scores: Sequence[float], *, confidence: float = 0.95
) -> WinRate:
    """Return how often a score beats its reference, with Wilson's interval.

    Wilson (1927, JASA 22, eq. 1); ties count half, which makes the interval too wide rather than
    too narrow. Misleads as any judge does: it sees who wins, not by how much, and inherits what the
    scores like, such as long answers.

    Args:
        scores: One number a prompt.
        reference_scores: The reference's scores on the same prompts.
        confidence: Share of intervals that shall hold the true rate, between 0 and 1.

    Raises:
        ValueError: If the numbers differ or are none, a score is no finite number, or
            ``confidence`` is out of range.
    """
    check_as_many(scores=scores, reference_scores=reference_scores)
    check_number("confidence", confidence, above=0, below=1)
    pairs = list(zip(plain_list(scores), plain_list(reference_scores), strict=True))
    for i, pair in enumerate(pairs):
        check_number(f"scores[{i}]", pair[0])
        check_number(f"reference_scores[{i}]", pair[1])
    wins, ties = sum(a > b for a, b in pairs), sum(a == b for a, b in pairs)
    rate = (wins + ties / 2) / len(pairs)
    lower, upper = _wilson(rate, len(pairs), confidence)
    return WinRate(
        rate=rate, lower=lower, upper=upper, wins=wins, ties=ties, losses=len(pairs) - wins - ties
    )


def _wilson(rate: float, count: int, confidence: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval for a share ``rate`` of ``count`` trials."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    shrunk = 1 + z**2 / count
    centre = (rate + z**2 / (2 * count)) / shrunk
    half_width = z * math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2)) / shrunk
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def _answer_words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()
