"""Fit tasks with methods over seeds and tabulate the scores: ``python -m course_utils.compare``."""

from course_utils.compare.alignment_tasks import ALIGNMENT_TASKS
from course_utils.compare.candidates import CANDIDATES, Candidate
from course_utils.compare.studies import STUDIES, Study
from course_utils.compare.study import best_runs, fit, load_results, run_study, tune
from course_utils.compare.tables import largest_distinct_set, markdown_table
from course_utils.compare.tasks import TASKS, WORD_TASKS, Task

__all__ = [
    "ALIGNMENT_TASKS",
    "CANDIDATES",
    "STUDIES",
    "TASKS",
    "WORD_TASKS",
    "Candidate",
    "Study",
    "Task",
    "best_runs",
    "fit",
    "largest_distinct_set",
    "load_results",
    "markdown_table",
    "run_study",
    "tune",
]
