"""The widget's logic, by pressing its buttons without a browser."""

import re
from html.parser import HTMLParser

import ipywidgets
import pytest

from course_utils.practice.quiz import QuestionBank, Quiz
from course_utils.practice.quiz import widget as module
from course_utils.practice.quiz.render import listing_html
from tests.practice.quiz.test_terminal import QUESTIONS

MAX_LISTING_BYTES = 40_000


@pytest.fixture
def quiz():
    return Quiz(QUESTIONS)


def press(quiz, text):
    (button,) = [b for b in quiz.inputs if getattr(b, "description", "") == text]
    button.click()


def go(quiz, index):
    while quiz.session.position < index:
        quiz.next_button.click()


def test_one_click_answers_a_single_choice(quiz):
    assert "because" not in quiz.text
    press(quiz, "option 1")
    assert quiz.session.score == 1
    assert quiz.inputs == ()
    assert "Right." in quiz.text
    assert "Source: Chapter 00" in quiz.text
    for i in range(3):
        assert f"because {i}" in quiz.text


def test_a_wrong_choice_is_marked_and_explained(quiz):
    press(quiz, "option 0")
    assert quiz.session.score == 0
    assert "Not right." in quiz.text
    wrong_card = re.search(r'cq-card cq-wrong">.*?</div></div>', quiz.text)[0]
    assert "option 0" in wrong_card
    assert quiz.text.count("cq-card cq-wrong") == 1
    assert "your choice" in wrong_card


@pytest.mark.parametrize(
    ("chosen", "is_right"), [((0, 2), True), ((0,), False), ((0, 1, 2), False)]
)
def test_several_choices_are_checked_together(quiz, chosen, is_right):
    go(quiz, 1)
    for i in chosen:
        quiz.inputs[i].value = True
    assert quiz.session.grades == {}
    press(quiz, "Check")
    assert quiz.session.grades == {"00-multiple": is_right}


def test_nothing_chosen_is_told_and_can_be_mended(quiz):
    go(quiz, 1)
    press(quiz, "Check")
    assert "Choose an option first" in quiz.text
    assert quiz.session.grades == {}
    quiz.inputs[0].value = quiz.inputs[2].value = True
    press(quiz, "Check")
    assert "Choose an option" not in quiz.text
    assert quiz.session.score == 1


@pytest.mark.parametrize(("typed", "is_right"), [("112 GB", True), ("1.1e2", True), ("14", False)])
def test_a_number_is_graded_when_it_arrives(quiz, typed, is_right):
    go(quiz, 2)
    quiz.inputs[0].value = typed
    assert quiz.session.grades == {"00-numeric": is_right}
    assert "112 ± 3 GB" in quiz.text
    assert f"you wrote {typed}" in quiz.text


def test_no_number_is_told_and_can_be_mended(quiz):
    go(quiz, 2)
    press(quiz, "Check")
    assert "is not a number" in quiz.text
    quiz.inputs[0].value = "<b>112</b> MB"
    assert "<b>112" not in quiz.text
    quiz.inputs[0].value = "112 MB"
    assert "asked in GB" in quiz.text
    assert quiz.session.grades == {}
    quiz.inputs[0].value = "112"
    assert quiz.session.score == 1


@pytest.mark.parametrize(("button", "is_right"), [("I knew it", True), ("Not yet", False)])
def test_a_flash_card_turns_over_and_is_graded_by_its_reader(quiz, button, is_right):
    go(quiz, 3)
    assert "The back." not in quiz.text
    press(quiz, "Turn the card over")
    assert "The back." in quiz.text
    press(quiz, button)
    assert quiz.session.grades == {"00-flash": is_right}


def test_what_cannot_be_kept_is_told_below_the_feedback(quiz, state_dir):
    state_dir.write_text("a file where the folder should be")
    press(quiz, "option 1")
    assert "Right." in quiz.text
    assert "Your answer could not be kept: " in quiz.text
    quiz.next_button.click()
    assert "could not be kept" not in quiz.text


def test_answers_stay_on_the_way_back(quiz):
    press(quiz, "option 1")
    quiz.next_button.click()
    quiz.inputs[2].value = True
    quiz.previous_button.click()
    assert "Right." in quiz.text
    quiz.next_button.click()
    assert quiz.inputs[2].value is True


def test_the_ends_stop_the_buttons(quiz):
    assert quiz.previous_button.disabled
    go(quiz, 3)
    assert quiz.next_button.description.startswith("Result")
    go(quiz, 4)
    assert quiz.next_button.disabled
    assert not quiz.previous_button.disabled


def test_the_result_counts_and_restart_forgets(quiz):
    press(quiz, "option 1")
    go(quiz, 4)
    assert "1 of 4 right. 3 not answered." in quiz.text
    while quiz.session.position > 1:
        quiz.previous_button.click()
    quiz.inputs[0].value = True
    quiz.restart_button.click()
    assert quiz.session.grades == {}
    quiz.next_button.click()
    assert quiz.inputs[0].value is False, "the choice from before is still pressed"
    quiz.previous_button.click()
    assert "Question 1 of 4" in quiz.text
    press(quiz, "option 0")
    assert quiz.session.grades == {"00-single": False}


@pytest.fixture
def focused(monkeypatch):
    """Record which control is given the focus."""
    taken = []
    monkeypatch.setattr(
        ipywidgets.DOMWidget, "focus", lambda control: taken.append(control), raising=False
    )
    return taken


def test_after_an_answer_the_focus_is_on_next_and_the_verdict_is_announced(quiz, focused):
    press(quiz, "option 1")
    assert focused == [quiz.next_button]
    assert re.search(r'class="cq-verdict cq-right" role="alert">.*?Right', quiz.text)
    go(quiz, 1)
    press(quiz, "Check")
    assert focused == [quiz.next_button], "without an answer the focus stays"
    assert 'class="cq-message" role="alert">Choose' in quiz.text
    quiz.inputs[1].value = True
    press(quiz, "Check")
    assert focused == [quiz.next_button] * 2
    assert re.search(r'role="alert">.*?Not right', quiz.text)


def test_the_focus_is_never_on_a_control_that_is_gone(quiz, focused):
    go(quiz, 3)
    press(quiz, "Turn the card over")
    turn, knew, missed = quiz.inputs
    assert focused[-1] is knew
    assert (turn.layout.display, knew.layout.display, missed.layout.display) == ("none", None, None)
    quiz.next_button.click()
    assert focused[-1] is quiz.restart_button
    while not quiz.previous_button.disabled:
        quiz.previous_button.click()
    assert focused[-1] is quiz.next_button


def test_a_library_without_focus_is_no_error(quiz, monkeypatch):
    monkeypatch.delattr(ipywidgets.DOMWidget, "focus")
    press(quiz, "option 1")
    assert quiz.session.score == 1


def test_every_control_has_a_description(quiz):
    for index in range(4):
        go(quiz, index)
        assert all(control.description for control in quiz.inputs)


def test_a_turned_card_stays_turned_until_restart(quiz):
    go(quiz, 3)
    press(quiz, "Turn the card over")
    quiz.previous_button.click()
    quiz.next_button.click()
    assert "The back." in quiz.text
    quiz.restart_button.click()
    go(quiz, 3)
    assert "The back." not in quiz.text


def test_prompts_are_text_not_markup():
    from dataclasses import replace

    quiz = Quiz([replace(QUESTIONS[0], prompt="Is <script> `a < b` & c?")])
    assert "Is &lt;script&gt; <code>a &lt; b</code> &amp; c?" in quiz.text


def test_a_seed_shuffles():
    bank = QuestionBank.load().for_chapter("00")
    assert [q.id for q in Quiz(bank, seed=1).session.questions] != [q.id for q in bank]


def test_every_shipped_question_can_be_answered_right():
    quiz = Quiz(QuestionBank.load())
    for question in quiz.session.questions:
        if question.type == "single":
            quiz.inputs[min(question.correct_options)].click()
        elif question.type == "multiple":
            for i in question.correct_options:
                quiz.inputs[i].value = True
            press(quiz, "Check")
        elif question.type == "numeric":
            quiz.inputs[0].value = f"{question.answer} {question.unit}"
        else:
            press(quiz, "Turn the card over")
            press(quiz, "I knew it")
        quiz.next_button.click()
    n = len(quiz.session.questions)
    assert f"{n} of {n} right." in quiz.text


# What a saved notebook shows


def test_the_listing_has_the_options_in_stored_order(shown, monkeypatch):
    monkeypatch.setattr(module, "get_ipython", lambda: type("Shell", (), {"kernel": 1})())
    bank = QuestionBank.load().for_chapter("00")
    Quiz(bank)._ipython_display_()
    assert shown[1]["text/html"] == listing_html(list(bank))


class Outline(HTMLParser):
    """Counts elements and checks that they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.counts = [], {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_listing_is_small_and_folds_every_answer():
    bank = QuestionBank.load()
    for chapter in {question.chapter for question in bank}:
        questions = list(bank.for_chapter(chapter))
        text = listing_html(questions)
        assert len(text.encode()) < MAX_LISTING_BYTES
        outline = Outline(text)
        assert outline.counts["details"] == len(questions) + 1
        assert "<details open" not in text
        unfolded = re.sub(r"<summary>Answer</summary>.*?</details>", "", text)
        for question in questions:
            assert question.source not in unfolded
            assert "✓" not in unfolded


@pytest.fixture
def shown(monkeypatch):
    outputs = []
    monkeypatch.setattr(module, "display", lambda thing, **_: outputs.append(thing))
    return outputs


def test_in_a_notebook_widget_and_listing_are_two_outputs(quiz, shown, monkeypatch):
    monkeypatch.setattr(module, "get_ipython", lambda: type("Shell", (), {"kernel": 1})())
    quiz._ipython_display_()
    widget, listing = shown
    assert isinstance(widget, ipywidgets.VBox)
    assert listing["text/html"].startswith("<details>")
    assert "4 questions" in listing["text/plain"]


@pytest.mark.parametrize("shell", [None, object()])
def test_without_a_kernel_one_line_says_what_to_do(quiz, shown, monkeypatch, shell):
    monkeypatch.setattr(module, "get_ipython", lambda: shell)
    quiz._ipython_display_()
    assert [list(output) for output in shown] == [["text/plain"]]
    assert "ask_in_terminal" in shown[0]["text/plain"]
