"""Build every task set and write it as JSON lines."""

import json
from collections.abc import Callable
from pathlib import Path

from course_utils.files import write_text
from course_utils.validation import check_choice
from course_utils.world.tasks import (
    dialect,
    instructions,
    new_facts,
    preferences,
    questions,
    retention,
    roles,
    sentiment,
    topics,
)

Rows = dict[str, list[dict]]

_BUILDERS: dict[str, Callable[[int], Rows]] = {
    "topics": topics.build,
    "sentiment": sentiment.build,
    "new_facts": new_facts.build,
    "dialect": dialect.build,
    "instructions": instructions.build,
    "preferences": preferences.build,
    "questions": questions.build,
    "roles": roles.build,
    "retention": retention.build,
}


def task_names() -> tuple[str, ...]:
    """Return the names of the task sets that can be built."""
    return tuple(_BUILDERS)


def build_task(name: str, seed: int = 0) -> Rows:
    """Return the rows of each split of a task set.

    Raises:
        ValueError: If there is no such task set.
    """
    check_choice("task", name, _BUILDERS)
    return _BUILDERS[name](seed)


def write_tasks(folder: Path, seed: int = 0) -> None:
    """Write every split of every task set to ``folder/<task>/<split>.jsonl``."""
    for name in _BUILDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split, rows in build_task(name, seed).items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_text(folder / name / f"{split}.jsonl", text)
