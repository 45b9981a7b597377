"""Grading and the walk through questions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.practice.quiz.bank import Option, Question
from course_utils.practice.quiz.session import Session, grade, parse_number


def make(kind, *correct, n_options=3, **fields):
    options = tuple(
        Option(text=f"option {i}", explanation=f"because {i}", correct=i in correct)
        for i in range(n_options if kind in ("single", "multiple") else 0)
    )
    # A ladder, so that a test knows which place an option has on the screen.
    defaults = {"topic": "memory", "difficulty": 1, "prompt": "Why?", "source": "Chapter 00"}
    defaults |= {"ordered": True}
    return Question(type=kind, options=options, **{"id": f"00-{kind}", **defaults, **fields})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("112", 112),
        (" 112 GB ", 112),
        ("112GB", 112),
        ("112 gb", 112),
        ("1.1e2", 110),
        ("1.1E+2 GB", 110),
        ("1,024", 1024),
        ("1,024.5", 1024.5),
        ("1 024", 1024),
        ("-3", -3),
        ("\u22123", -3),
        (".5", 0.5),
        ("5.", 5),
        ("~7", 7),
        ("12,345,678", 12345678),
        ("0", 0),
        ("1_024", 1024),
        ("112\u00a0GB", 112),
        ("1e-3", 0.001),
    ],
)
def test_numbers_are_read_as_people_type_them(text, number):
    assert parse_number(text, "GB") == pytest.approx(number)


@pytest.mark.parametrize(
    "text", ["", "many", "1,02", "1,0245", "1.2.3", "GB", "--1", "12 34", "1e"]
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match=r"is not a number|is asked"):
        parse_number(text, "GB")


@pytest.mark.parametrize(("text", "unit"), [("112 MB", "GB"), ("8 nats", ""), ("3 %", "points")])
def test_another_unit_is_refused(text, unit):
    with pytest.raises(ValueError, match="the answer is asked"):
        parse_number(text, unit)


def test_a_unit_may_be_singular():
    assert parse_number("1 byte", "bytes") == 1


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_whatever_python_writes_is_read_back(number):
    assert parse_number(repr(number)) == number


@given(st.integers(-(10**15), 10**15))
def test_thousands_may_be_grouped(number):
    assert parse_number(f"{number:,}") == number


@given(st.text(max_size=20))
def test_any_text_is_a_number_or_a_value_error(text):
    try:
        number = parse_number(text)
    except ValueError:
        return
    assert isinstance(number, float)


@given(st.sets(st.integers(0, 3), min_size=1), st.sets(st.integers(0, 3), min_size=1))
def test_several_options_need_the_exact_set(correct, chosen):
    question = make("multiple", *correct, n_options=4)
    assert grade(question, frozenset(chosen)) == (chosen == correct)


def test_nothing_chosen_is_not_graded():
    with pytest.raises(ValueError, match="choose an option"):
        grade(make("single", 0), frozenset())


@pytest.mark.parametrize(
    ("text", "is_right"), [("109", True), ("115", True), ("108.9", False), ("115.1", False)]
)
def test_the_tolerance_is_absolute_and_inclusive(text, is_right):
    question = make("numeric", answer=112, tolerance=3, unit="GB")
    assert grade(question, text) is is_right


def test_rounding_does_not_spoil_an_exact_bound():
    assert grade(make("numeric", answer=0.3, tolerance=0.1), "0.4")
    assert not grade(make("numeric", answer=0.3, tolerance=0.1), "0.4001")


def test_a_flash_card_is_graded_by_its_reader():
    assert grade(make("flash", answer="x"), True)
    assert not grade(make("flash", answer="x"), False)


@pytest.fixture
def session():
    return Session([make("single", 1), make("multiple", 0, 2, topic="bugs"), make("flash")])


def test_the_first_answer_counts(session):
    assert session.answer(frozenset([0])) is False
    assert session.answer(frozenset([1])) is False
    assert session.responses["00-single"] == {0}
    assert session.score == 0


def test_an_answer_that_cannot_be_graded_leaves_no_trace(session):
    with pytest.raises(ValueError, match="choose"):
        session.answer(frozenset())
    assert session.grades == session.responses == {}


def test_what_counts_is_kept_once_and_what_is_said_of_it_is_there_to_be_told():
    kept = []

    def keep(question, is_right):
        kept.append((question, is_right))
        return f"kept {len(kept)}"

    session = Session([make("single", 1), make("flash")], keep=keep)
    with pytest.raises(ValueError, match="choose"):
        session.answer(frozenset())
    assert (kept, session.notice) == ([], "")
    session.answer(frozenset([1]))
    session.answer(frozenset([0]))
    assert (kept, session.notice) == ([("00-single", True)], "kept 1")
    session.restart()
    assert session.notice == ""
    session.answer(frozenset([0]))
    assert kept == [("00-single", True), ("00-single", False)]


def test_the_place_stays_between_first_question_and_result(session):
    session.move(-1)
    assert session.position == 0
    session.move(99)
    assert session.position == 3
    assert session.current is None
    with pytest.raises(ValueError, match="no question"):
        session.answer(True)


def test_score_and_weak_spots(session):
    session.answer(frozenset([1]))
    session.move(1)
    session.answer(frozenset([0]))
    assert session.score == 1
    assert list(session.by_topic().items()) == [("bugs", (0, 1)), ("memory", (1, 2))]


def test_restart_forgets_everything(session):
    session.answer(frozenset([1]))
    session.move(2)
    session.restart()
    assert (session.position, session.score, session.grades) == (0, 0, {})


def test_a_seed_shuffles_and_repeats():
    questions = [make("flash", id=f"00-card-{i}") for i in range(20)]
    orders = [[q.id for q in Session(questions, seed).questions] for seed in (None, 1, 1, 2)]
    assert orders[0] == [q.id for q in questions]
    assert orders[1] == orders[2] != orders[3]
    assert sorted(orders[1]) == sorted(orders[0]) != orders[1]


def texts(session):
    return [[option.text for option in question.options] for question in session.questions]


def loose(n_questions=5):
    return [make("single", 1, n_options=5, id=f"00-{i}", ordered=False) for i in range(n_questions)]


def test_options_are_shuffled_for_each_learner_and_try():
    once, again, other = (Session(loose(), seed) for seed in (1, 1, 2))
    first_try = texts(once)
    assert first_try == texts(again)
    assert sorted(first_try) != sorted(texts(other))
    once.restart()
    assert texts(once) != first_try
    again.restart()
    assert texts(once) == texts(again)


def test_without_a_seed_chance_shuffles_the_options_alone():
    sessions = [Session(loose()) for _ in range(3)]
    assert len({str(texts(session)) for session in sessions}) == 3
    for session in sessions:
        assert [q.id for q in session.questions] == [q.id for q in loose()]
        assert session.stored == loose()


def test_what_is_graded_is_the_option_that_is_shown():
    session = Session(loose(), seed=3)
    for question in session.questions:
        shown = [option.text for option in question.options].index("option 1")
        assert session.answer(frozenset([shown]))
        session.move(1)


def test_a_quiz_needs_a_question():
    with pytest.raises(ValueError, match="at least one question"):
        Session([])
