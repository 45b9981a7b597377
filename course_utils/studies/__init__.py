"""Fit tasks with methods over seeds and tabulate the scores: ``python -m course_utils.studies``."""

from course_utils.studies.alignment_tasks import ALIGNMENT_TASKS
from course_utils.studies.candidates import CANDIDATES, Candidate
from course_utils.studies.definitions import STUDIES, Study
from course_utils.studies.runner import fit, load_results, run_study, tune
from course_utils.studies.tables import largest_distinct_set, markdown_table, rate_rows
from course_utils.studies.tasks import TASKS, WORD_TASKS, Task
from course_utils.studies.tuning import best_runs, is_at_edge, tried_rates

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
    "is_at_edge",
    "largest_distinct_set",
    "load_results",
    "markdown_table",
    "rate_rows",
    "run_study",
    "tried_rates",
    "tune",
]
