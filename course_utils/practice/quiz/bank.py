"""The question bank: one YAML file a chapter in ``data/quiz/``, checked when it is loaded."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from course_utils.paths import data_dir
from course_utils.practice.checked_yaml import raise_faults, read_entries


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a question, with the reason why it is right or wrong."""

    text: str
    explanation: str
    correct: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question.

    Args:
        id: Chapter number, then a name; it never changes.
        type: ``single``, ``multiple``, ``numeric`` or ``flash``.
        topic: What it is about, across chapters.
        difficulty: 1 (recall) to 3 (has to be worked out).
        prompt: The question.
        source: A chapter and the heading of the section that has the answer, then perhaps papers.
        options: For ``single`` and ``multiple``.
        ordered: Whether the options are a ladder, as of numbers, and keep their order.
        answer: A number for ``numeric``, the back of the card for ``flash``.
        tolerance: Largest distance from a numeric answer, in its unit, that still counts.
        unit: Unit of a numeric answer; empty for a plain number.
        explanation: How a numeric answer comes about.
    """

    id: str
    type: str
    topic: str
    difficulty: int
    prompt: str
    source: str
    options: tuple[Option, ...] = ()
    ordered: bool = False
    answer: float | str | None = None
    tolerance: float = 0.0
    unit: str = ""
    explanation: str = ""

    @property
    def chapter(self) -> str:
        """The chapter's number, as in ``"00"``."""
        return self.id[:2]

    @property
    def correct_options(self) -> frozenset[int]:
        """Positions of the correct options."""
        return frozenset(i for i, option in enumerate(self.options) if option.correct)

    def shuffled(self, seed: str) -> "Question":
        """Return the question with its options in an order that depends on the seed and the id.

        A ladder keeps its order.
        """
        options = list(self.options)
        if not self.ordered:
            random.Random(f"{seed} {self.id}").shuffle(options)
        return replace(self, options=tuple(options))


@dataclass(frozen=True)
class QuestionBank:
    """Questions in the order of their chapters."""

    questions: tuple[Question, ...] = field(repr=False)

    @classmethod
    def load(cls, folder: Path | None = None) -> "QuestionBank":
        """Read every chapter's file in a folder, by default the course's own.

        Raises:
            FileNotFoundError: If the folder holds no question file.
            ValueError: If a question breaks a rule; one line for each fault: file, id, rule.
        """
        folder = data_dir() / "quiz" if folder is None else Path(folder)
        paths = sorted(folder.glob("*.yaml"))
        if not paths:
            raise FileNotFoundError(f"no question file like 00.yaml in {folder}")
        questions, faults = [], []
        for path in paths:
            try:
                questions += _load_chapter(path)
            except ValueError as error:
                faults.append(str(error))
        raise_faults(faults)
        return cls(tuple(questions))

    def for_chapter(self, chapter: str) -> "QuestionBank":
        """Return the questions of one chapter.

        Raises:
            ValueError: If it has none.
        """
        number = str(chapter).zfill(2)
        return self._choose("chapter", (number,), {q.id: q.chapter for q in self.questions})

    def by_topic(self, *topics: str) -> "QuestionBank":
        """Return the questions on any of these topics.

        Raises:
            ValueError: If a topic has none.
        """
        return self._choose("topic", topics, {q.id: q.topic for q in self.questions})

    def topics(self) -> tuple[str, ...]:
        """Return all topics, in alphabetical order."""
        return tuple(sorted({question.topic for question in self.questions}))

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.questions)

    def _choose(self, what: str, wanted: Iterable[str], value_of: dict[str, str]) -> "QuestionBank":
        existing = sorted(set(value_of.values()))
        for value in wanted:
            if value not in existing:
                raise ValueError(f"no question on {what} {value!r}: there are {existing}")
        return QuestionBank(tuple(q for q in self.questions if value_of[q.id] in wanted))


def _load_chapter(path: Path) -> list[Question]:
    entries = read_entries(path, data_dir() / "quiz" / "schema.json")
    questions = [
        Question(**{**entry, "options": tuple(Option(**o) for o in entry.get("options", ()))})
        for entry in entries
    ]
    raise_faults(
        [f"{path.name}: {q.id}: {fault}" for q in questions for fault in _faults(q, path.stem)]
    )
    return questions


def _faults(question: Question, chapter: str) -> Iterator[str]:
    if question.chapter != chapter:
        yield f"the id must begin with the file's chapter, {chapter}-"
    n_correct = len(question.correct_options)
    if question.type == "single" and n_correct != 1:
        yield f"exactly one option must be correct (found {n_correct})"
    if question.type == "multiple" and n_correct == 0:
        yield "at least one option must be correct (found none)"
    if len({option.text for option in question.options}) < len(question.options):
        yield "two options have the same text"
