"""The chapters in a browser: cells run, the widgets appear and answer, the quiz scores.

Every cell of every chapter is run by nbval. Here two chapters run whole, and of the others what the
widget and the quiz need.
"""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, expect

from tests.browser.lab import NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def cell_with(chapter: Path, source: str) -> int:
    """Return the position of the one code cell that contains this text."""
    cells = nbformat.read(chapter, as_version=4).cells
    found = [i for i, c in enumerate(cells) if c.cell_type == "code" and source in c.source]
    assert len(found) == 1, f"{source!r} is in cells {found}"
    return found[0]


@pytest.fixture
def run_part(
    open_notebook: Callable[[Path], NotebookPage], tmp_path: Path
) -> Callable[..., tuple[NotebookPage, Path]]:
    """Return a function that runs a chapter's setup, the cells with some texts, and the quiz."""

    def run(name: str, *sources: str) -> tuple[NotebookPage, Path]:
        chapter = NOTEBOOKS / f"{name}.ipynb"
        node = nbformat.read(chapter, as_version=4)
        titles = [i for i, c in enumerate(node.cells) if "## " in c.source and is_prose(c)]
        setup = next(i for i in titles if "## Setup" in node.cells[i].source)
        wanted = {*range(setup, titles[titles.index(setup) + 1])}
        wanted |= {cell_with(chapter, text) for text in (*sources, "Quiz(QuestionBank")}
        node.cells = [cell for i, cell in enumerate(node.cells) if i in wanted]
        part = tmp_path / chapter.name
        nbformat.write(node, part)
        notebook = open_notebook(part)
        notebook.run_all()
        expect(
            notebook.output(cell_with(part, "Quiz(QuestionBank")).locator(".cq")
        ).to_contain_text("Question 1 of")
        return notebook, part

    return run


def is_prose(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "markdown"


def redraws(widget: Locator, change: Callable[[], object]) -> None:
    """Check that a widget's picture follows a change."""
    picture = widget.locator("img").first
    before = picture.get_attribute("src")
    change()
    expect(picture).not_to_have_attribute("src", before)


def nudge(widget: Locator, number: int = 0) -> None:
    """Move a slider by one step."""
    handle = widget.locator(".noUi-handle").nth(number)
    handle.focus()
    handle.press("ArrowRight")


def test_chapter_00_runs_and_its_widgets_answer(open_notebook):
    notebook, chapter = run_chapter(open_notebook, "00_start_here")
    next_token_explorer_appends_what_is_clicked(notebook, chapter)
    will_it_fit_follows_the_card(notebook, chapter)
    the_quiz_tells_right_from_wrong(notebook, chapter)


def run_chapter(open_notebook, name: str) -> tuple[NotebookPage, Path]:
    chapter = NOTEBOOKS / f"{name}.ipynb"
    notebook = open_notebook(chapter)
    notebook.run_all()
    return notebook, chapter


def next_token_explorer_appends_what_is_clicked(notebook: NotebookPage, chapter: Path) -> None:
    explorer = notebook.output(cell_with(chapter, "next_token_explorer(model"))
    box, likeliest = explorer.locator("textarea"), explorer.get_by_role("button").first
    before, token = box.input_value(), likeliest.inner_text()
    likeliest.click()
    expect(box).not_to_have_value(before)
    assert box.input_value().startswith(before)
    # The likeliest token was appended, so the model was asked again and answers something else.
    expect(likeliest).not_to_have_text(token)
    notebook.save_picture("00_next_token_explorer")


def will_it_fit_follows_the_card(notebook: NotebookPage, chapter: Path) -> None:
    widget = notebook.output(cell_with(chapter, "will_it_fit()"))
    expect(widget.get_by_text("It does not fit")).to_be_visible()
    notebook.save_picture("00_will_it_fit_t4")
    widget.locator("select").last.select_option("8 x H100 (640 GB)")
    expect(widget.get_by_text("It fits")).to_be_visible()
    notebook.save_picture("00_will_it_fit_eight_cards")


def the_quiz_tells_right_from_wrong(notebook: NotebookPage, chapter: Path) -> None:
    quiz = notebook.output(cell_with(chapter, "Quiz(QuestionBank")).locator(".cq")
    quiz.get_by_role("button", name="16", exact=True).click()
    expect(quiz.locator(".cq-verdict")).to_contain_text("Right.")
    expect(quiz).to_contain_text("1 right of 1 answered")
    notebook.save_picture("00_quiz_right")
    quiz.get_by_role("button", name="Next").click()
    quiz.locator("input").fill("12")
    quiz.get_by_role("button", name="Check").click()
    expect(quiz.locator(".cq-verdict")).to_contain_text("Not right.")
    expect(quiz).to_contain_text("1 right of 2 answered")
    notebook.save_picture("00_quiz_wrong")


def test_chapter_01_shows_its_quiz(run_part):
    notebook, _ = run_part("01_full_and_frozen")
    notebook.save_picture("01_quiz")


def test_chapter_02_runs_and_its_widget_answers(open_notebook):
    notebook, chapter = run_chapter(open_notebook, "02_lora")
    widget = notebook.output(cell_with(chapter, "rank_explorer({"))
    notebook.save_picture("02_rank_explorer")
    redraws(widget, lambda: widget.locator("select").first.select_option(index=6))
    notebook.save_picture("02_rank_explorer_other_layer")


def test_the_widget_of_chapter_03_answers(run_part):
    call = "nf4_explorer(weights)"
    notebook, part = run_part("03_qlora_and_nf4", "weights = next(", call)
    widget = notebook.output(cell_with(part, call))
    expect(widget.get_by_text("4.127")).to_be_visible()
    notebook.save_picture("03_nf4_explorer")
    widget.locator("select").first.select_option("INT2")
    expect(widget.get_by_text("INT2 in blocks of 64")).to_be_visible()
    notebook.save_picture("03_nf4_explorer_int2")


def test_the_widget_of_chapter_04_answers(run_part):
    notebook, part = run_part("04_dora_and_family", "direction_explorer()")
    widget = notebook.output(cell_with(part, "direction_explorer()"))
    expect(widget.get_by_text("DoRA: the length")).to_be_visible()
    redraws(widget, lambda: nudge(widget))
    notebook.save_picture("04_direction_explorer")


def test_the_widget_of_chapter_05_answers(run_part):
    notebook, part = run_part("05_adapters", "adapter_explorer(")
    widget = notebook.output(cell_with(part, "adapter_explorer("))
    notebook.save_picture("05_adapter_explorer")
    redraws(widget, lambda: widget.locator("select").first.select_option(index=1))
    notebook.save_picture("05_adapter_explorer_other_model")


def test_the_widget_of_chapter_06_answers(run_part):
    needed = (
        "methods = {",
        "def with_prompt(",
        "classifier = load_base_model",
        "rows_of_reviews =",
    )
    notebook, part = run_part("06_prompts_and_prefixes", *needed, "prefix_explorer(tuned")
    widget = notebook.output(cell_with(part, "prefix_explorer(tuned"))
    notebook.save_picture("06_prefix_explorer")
    redraws(widget, lambda: widget.locator("select").first.select_option(index=1))
    notebook.save_picture("06_prefix_explorer_other_text")


def test_the_widget_of_chapter_07_answers(run_part):
    notebook, part = run_part("07_instruction_tuning", "import loss_mask_explorer")
    widget = notebook.output(cell_with(part, "import loss_mask_explorer"))
    count = widget.get_by_text("tokens carry loss").first
    expect(count).to_be_visible()
    before = count.inner_text()
    notebook.save_picture("07_loss_mask_explorer")
    widget.locator("select").nth(1).select_option(index=1)
    expect(count).not_to_have_text(before)
    notebook.save_picture("07_loss_mask_explorer_all")


def test_the_widget_of_chapter_08_answers(run_part):
    call = "reward_explorer(reward"
    notebook, part = run_part("08_reward_models", "start.load_reward_model(", call)
    widget = notebook.output(cell_with(part, call))
    notebook.save_picture("08_reward_explorer")
    answer = widget.locator("textarea").nth(1)
    answer.fill("You are a kind person. Nobody knows.")
    redraws(widget, lambda: answer.press("Tab"))
    notebook.save_picture("08_reward_explorer_typed")


def test_the_widget_of_chapter_09_answers(run_part):
    notebook, part = run_part("09_rlhf_with_ppo", "clip_explorer()")
    widget = notebook.output(cell_with(part, "clip_explorer()"))
    redraws(widget, lambda: nudge(widget))
    notebook.save_picture("09_clip_explorer")
