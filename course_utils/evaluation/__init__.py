"""What a model knows and does: perplexity, exact match, accuracy, text, and what it retained."""

from course_utils.evaluation.metrics import (
    Matches,
    WinRate,
    bleu,
    distinct_n,
    exact_match_by,
    token_f1,
    win_rate,
)
from course_utils.evaluation.retained import Retention, language_model_of, recall_by, retention
from course_utils.evaluation.scoring import (
    TokenScores,
    accuracy,
    greedy_matches,
    perplexity,
    token_scores,
)
from course_utils.evaluation.writing import generate

__all__ = [
    "Matches",
    "Retention",
    "TokenScores",
    "WinRate",
    "accuracy",
    "bleu",
    "distinct_n",
    "exact_match_by",
    "generate",
    "greedy_matches",
    "language_model_of",
    "perplexity",
    "recall_by",
    "retention",
    "token_f1",
    "token_scores",
    "win_rate",
]
