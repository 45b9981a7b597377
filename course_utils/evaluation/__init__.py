"""What a model knows and does: perplexity, exact match, accuracy, text, and what it retained."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["Reliability", "expected_calibration_error", "reliability"],
        "metrics": [
            "Matches",
            "WinRate",
            "bleu",
            "distinct_n",
            "exact_match_by",
            "token_f1",
            "win_rate",
        ],
        "retained": ["Retention", "language_model_of", "recall_by", "retention"],
        "scoring": ["TokenScores", "accuracy", "greedy_matches", "perplexity", "token_scores"],
        "writing": ["generate"],
    },
)
