"""The quiz: question bank, a widget for notebooks, plain text for terminals."""

from course_utils.practice.quiz.bank import Question, QuestionBank
from course_utils.practice.quiz.terminal import ask_in_terminal
from course_utils.practice.quiz.widget import Quiz

__all__ = ["Question", "QuestionBank", "Quiz", "ask_in_terminal"]
