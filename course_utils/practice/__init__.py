"""To practise: predictions, exercises that answer back, a question bank, the claims ledger."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "exercises": ["Check", "Verdict", "Wrong", "attempt"],
        "predictions": ["calibration", "predict"],
        "quiz": ["Question", "QuestionBank", "Quiz", "ask_in_terminal"],
        "claims": ["Claim", "Evidence", "load_claims"],
    },
)
