"""Fit tasks with methods over seeds and tabulate the scores: ``python -m course_utils.compare``."""

from course_utils.compare.candidates import CANDIDATES, Candidate
from course_utils.compare.study import best_runs, compare, fit
from course_utils.compare.tables import largest_distinct_set, markdown_table
from course_utils.compare.tasks import TASKS, Task

__all__ = [
    "CANDIDATES",
    "TASKS",
    "Candidate",
    "Task",
    "best_runs",
    "compare",
    "fit",
    "largest_distinct_set",
    "markdown_table",
]
