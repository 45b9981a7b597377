"""The quiz: question bank, a widget for notebooks, plain text for terminals."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bank": ["Question", "QuestionBank"],
        "terminal": ["ask_in_terminal"],
        "widget": ["Quiz"],
    },
)
