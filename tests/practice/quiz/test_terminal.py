"""The quiz in a terminal, played with a fake keyboard."""

from course_utils.practice.quiz import ask_in_terminal
from tests.practice.quiz.test_session import make

QUESTIONS = (
    make("single", 1),
    make("multiple", 0, 2),
    make("numeric", answer=112, tolerance=3, unit="GB", explanation="7 times 16."),
    make("flash", answer="The back."),
)


def play(*lines, questions=QUESTIONS):
    said, typed = [], iter(lines)

    def ask(prompt):
        said.append(prompt)
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    session = ask_in_terminal(questions, ask=ask, say=said.append)
    assert next(typed, None) is None, "not all lines were read"
    return session, "\n".join(said)


def test_right_answers_score():
    session, said = play("b", "a, c", "112 GB", "", "y")
    assert session.score == 4
    assert "Score: 4 of 4." in said
    for part in ("because 0", "because 1", "7 times 16", "The back.", "Source: Chapter 00"):
        assert part in said


def test_wrong_answers_do_not():
    session, said = play("a", "ab", "14", "", "n")
    assert session.score == 0
    assert said.count("Not right.") == 4


def test_the_solution_is_not_shown_before_the_answer():
    _, said = play("q")
    assert "because" not in said


def test_what_cannot_be_read_is_asked_again():
    session, said = play("x", "ab", "b", "q")
    assert session.grades == {"00-single": True}
    assert "no option x: there are a, b, c" in said
    assert "choose one option" in said


def test_an_empty_line_skips():
    session, _ = play("", "ac", "112", "", "y")
    assert "00-single" not in session.grades
    assert session.score == 3


def test_options_are_lettered_as_this_try_shuffles_them():
    question = make("single", 1, n_options=5, id="00-loose", ordered=False)
    session, said = play("q", questions=[question])
    shown = [
        f"{letter}) {o.text}" for letter, o in zip("abcde", session.current.options, strict=True)
    ]
    places = [said.index(text) for text in shown]
    assert places == sorted(places)
    assert {option.text for option in session.current.options} == {f"option {i}" for i in range(5)}


def test_q_and_the_end_of_input_stop():
    for lines in (("b", "q"), ("b",), ("b", "ac", "112", "", "q")):
        session, said = play(*lines)
        assert session.score >= 1
        assert said.endswith("of 4.")
        assert "00-flash" not in session.grades
