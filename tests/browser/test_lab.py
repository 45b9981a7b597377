"""`course lab` in a browser: it opens the first notebook, runs it, and its widgets answer."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from playwright.sync_api import TimeoutError, expect

from tests.browser.lab import START_SECONDS, notebooks, slowness

pytestmark = pytest.mark.browser

COUNTER = """\
import ipywidgets
button, label = ipywidgets.Button(description="count"), ipywidgets.Label("0 clicks")
button.on_click(lambda _: setattr(label, "value", f"{int(label.value.split()[0]) + 1} clicks"))
ipywidgets.VBox([button, label])"""
FIGURE = """\
import matplotlib.pyplot as plt
plt.plot([1, 3, 2])
plt.show()"""
QUIZ = """\
from course_utils.practice import QuestionBank, Quiz
Quiz(QuestionBank.load().for_chapter("00"))"""

PREDICTION = """\
from course_utils.practice import predict
factor = predict("02-rates", "By what factor?", unit="times")
winner = predict("02-scaling", "Which line rises?", ("one", "the other"))"""


@pytest.fixture
def write(tmp_path):
    def write(*sources, name="01_small.ipynb"):
        cells = [new_markdown_cell("# A small notebook"), *map(new_code_cell, sources)]
        kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        node = new_notebook(cells=cells, metadata={"kernelspec": kernelspec})
        nbformat.write(node, tmp_path / name)
        return tmp_path / name

    return write


def test_the_address_is_that_of_the_first_notebook(server, context, lab_folder):
    limit = START_SECONDS * slowness() * 1000
    with notebooks(context, server, lab_folder), context.new_page() as page:
        page.goto(server.address)
        expect(page.get_by_role("tab", name="00_first.ipynb")).to_be_visible(timeout=limit)


def test_a_notebook_opens_runs_draws_and_answers_a_click(open_notebook, write):
    notebook = open_notebook(write(COUNTER, FIGURE))
    assert notebook.state()["name"] == "01_small.ipynb"
    assert notebook.state()["executed"] == 0
    notebook.run_all()
    assert notebook.state()["executed"] == notebook.state()["total"] == 2
    expect(notebook.output(2).locator("img")).to_be_visible()
    counter = notebook.output(1)
    expect(counter.get_by_text("0 clicks")).to_be_visible()
    for n_clicks in (1, 2):
        counter.get_by_role("button", name="count").click()
        expect(counter.get_by_text(f"{n_clicks} clicks")).to_be_visible()
    assert notebook.widgets().count() > 0
    expect(notebook.page.get_by_text("Jupyter news")).to_have_count(0)
    assert notebook.save_picture("small_notebook").stat().st_size > 10_000


def test_the_quiz_says_the_verdict_and_moves_the_focus_on_a_narrow_page(open_notebook, write):
    notebook = open_notebook(write(QUIZ, name="04_quiz.ipynb"))
    notebook.page.set_viewport_size({"width": 1024, "height": 1000})
    notebook.run_all()
    quiz = notebook.output(1).locator(".cq")
    quiz.get_by_role("button", name="16", exact=True).click()
    expect(quiz.get_by_role("alert")).to_contain_text("Right.")
    expect(quiz.get_by_role("button", name="Next")).to_be_focused()
    expect(quiz.locator(".cq-dot").first).to_have_text("Question 1: right, shown now")
    assert quiz.evaluate("element => element.scrollWidth <= element.clientWidth")
    notebook.save_picture("quiz_1024")


def test_predictions_are_committed_by_keyboard_alone(open_notebook, write):
    notebook = open_notebook(write(PREDICTION, name="02_predict.ipynb"))
    notebook.run_all()
    factor, winner = (notebook.output(1).locator(".cp").nth(k) for k in (0, 1))
    keys = notebook.page.keyboard
    factor.get_by_label("Your answer (times)").focus()
    keys.type("2.5")
    press_tab_and_space(keys, 1)
    expect(factor).to_contain_text("Chosen: 2.5, 10 % sure.")
    press_tab_and_space(keys, 10)
    expect(factor).to_contain_text("You said 2.5 times (10 % sure).")
    press_tab_and_space(keys, 2)
    expect(winner).to_contain_text("Chosen: the other.")
    press_tab_and_space(keys, 7)
    expect(winner).to_contain_text("Choose how sure you are first.")
    expect(winner).not_to_contain_text("You said")


def press_tab_and_space(keys, n_tabs):
    for _ in range(n_tabs):
        keys.press("Tab")
    keys.press("Space")


def test_a_cell_that_fails_is_named(open_notebook, write):
    notebook = open_notebook(write("1", "1 / 0", "2", name="02_bad.ipynb"))
    with pytest.raises(AssertionError, match="cell 2: ZeroDivisionError: division by zero"):
        notebook.run_all()


def test_a_notebook_that_runs_into_its_limit_leaves_no_kernel(context, server, lab_folder, write):
    endless = write("while True:\n    pass", name="03_endless.ipynb")
    with notebooks(context, server, lab_folder) as open_copy:
        notebook = open_copy(endless)
        assert len(server.kernels()) == 1
        with pytest.raises(TimeoutError):
            notebook.run_all(limit_seconds=1)
    assert server.kernels() == []
