"""The task sets, each built from the country by seed and graded so that methods differ."""

from course_utils.world.tasks.builder import Rows, build_task, task_names, write_tasks

__all__ = ["Rows", "build_task", "task_names", "write_tasks"]
