"""The task sets the course ships."""

from typing import TYPE_CHECKING

from course_utils.data.files import read_jsonl
from course_utils.paths import data_dir

if TYPE_CHECKING:
    from datasets import Dataset


def task_names() -> tuple[str, ...]:
    """Return the task sets the course ships."""
    return tuple(sorted(path.parent.name for path in data_dir().glob("tasks/*/schema.json")))


def split_names(task: str) -> tuple[str, ...]:
    """Return the splits of a task set.

    Raises:
        ValueError: If there is no such task set.
    """
    if task not in task_names():
        raise ValueError(f"task {task!r} must be one of {', '.join(task_names())}")
    return tuple(sorted(path.stem for path in (data_dir() / "tasks" / task).glob("*.jsonl")))


def load_task(task: str, split: str = "train") -> "Dataset":
    """Load one split of a task set; data/tasks/README.md says what its columns mean.

    Raises:
        ValueError: If the task set or the split does not exist, or a line is not JSON.
    """
    from datasets import Dataset

    if split not in split_names(task):
        raise ValueError(f"split {split!r} of {task} must be one of {', '.join(split_names(task))}")
    return Dataset.from_list(read_jsonl(data_dir() / "tasks" / task / f"{split}.jsonl"))
