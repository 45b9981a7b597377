"""The task sets the course ships."""

from typing import TYPE_CHECKING

from course_utils.data.files import read_jsonl
from course_utils.paths import data_dir
from course_utils.validation import check_choice

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
    check_choice("task", task, task_names())
    return tuple(sorted(path.stem for path in (data_dir() / "tasks" / task).glob("*.jsonl")))


def load_task(task: str, split: str = "train") -> "Dataset":
    """Load one split of a task set; data/tasks/README.md says what its columns mean.

    Raises:
        ValueError: If the task set or the split does not exist, or a line is not JSON.
    """
    from datasets import Dataset

    check_choice(f"split of {task}", split, split_names(task))
    return Dataset.from_list(read_jsonl(data_dir() / "tasks" / task / f"{split}.jsonl"))
