"""Spaced repetition: the reader's record of answers, what is remembered of it, what is due."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "memory": ["Memory", "memories_of"],
        "progress": ["Progress", "TopicProgress", "progress_of"],
        "record": ["Answer", "Record", "keep_answer", "record_path"],
        "selection": ["due_questions", "quiz_questions", "weak_questions"],
    },
)
