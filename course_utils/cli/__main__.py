"""`python -m course_utils.cli` is the `course` command."""

from course_utils.cli.main import app

app()
