"""The scripts beside the notebooks are the cells of chapter 11, and they run."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_utils.cli import app
from course_utils.cli.notebooks.files import notebooks_dir
from course_utils.cli.recipes import RECIPES, scripts_of, tagged_cells
from course_utils.world.texts import skerrish_text
from tests.tiny_models import write_tiny_model

FOLDER = notebooks_dir() / "recipes"
TAGS = [f"recipe-{name.replace('_', '-')}" for name in RECIPES]


def test_the_committed_scripts_are_what_the_cells_give():
    written = {path.stem: path.read_text() for path in FOLDER.glob("*.py")}
    assert written == scripts_of(tagged_cells(notebooks_dir()))


def test_each_recipe_stands_in_the_chapter():
    for name, text in scripts_of(tagged_cells(notebooks_dir())).items():
        assert (ast.get_docstring(ast.parse(text)) or "").startswith(RECIPES[name])
        assert "course_utils" not in text, "a recipe is plain library code"


def test_the_command_writes_the_scripts_anew(tmp_path):
    (chapter,) = notebooks_dir().glob("11_*.ipynb")
    (tmp_path / chapter.name).write_bytes(chapter.read_bytes())
    result = CliRunner().invoke(app, ["recipes", "--folder", str(tmp_path)])
    assert result.exit_code == 0
    for name in RECIPES:
        assert (tmp_path / "recipes" / f"{name}.py").read_text() == (
            FOLDER / f"{name}.py"
        ).read_text()


def test_settings_come_first_and_only_if_they_are_used():
    cells = [("tokens = BLOCK", [TAGS[0]]), *[("print(OUT)", [tag]) for tag in TAGS[1:]]]
    scripts = scripts_of(cells)
    first, second, *_ = scripts.values()
    assert "BLOCK, EPOCHS, RATE" in first
    assert "BLOCK" not in second
    assert all("MODEL, TEXTS, OUT = sys.argv[1:4]" in text for text in scripts.values())


def test_functions_stand_apart():
    cells = [("a = 1", TAGS), ("def f():\n    return a", TAGS), ("f()", TAGS)]
    text = next(iter(scripts_of(cells).values()))
    assert "a = 1\n\n\ndef f():\n    return a\n\n\nf()\n" in text


@pytest.mark.parametrize("tags", [TAGS[1:], [*TAGS, "recipe-for-soup"]])
def test_a_tag_too_few_or_too_many_is_named(tags):
    odd = TAGS[0] if tags == TAGS[1:] else "recipe-for-soup"
    with pytest.raises(ValueError, match=rf"do not fit: {odd}$"):
        scripts_of([("a = 1", tags)])


def run_script(name: str, model: Path, folder: Path) -> str:
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", model, folder / "text.txt", folder / "out"],
        capture_output=True,
        check=False,
        text=True,
        cwd=folder,
        env=os.environ | settings,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_tiny_model_is_trained_saved_loaded_and_merged(tmp_path):
    model = write_tiny_model(tmp_path / "model", pad_token="<|endoftext|>")
    (tmp_path / "text.txt").write_text(skerrish_text(8_000))
    printed = run_script("train", model, tmp_path)
    assert "trainable params" in printed
    assert "before: loss" in printed
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    run_script("use", model, tmp_path)
    assert (tmp_path / "out" / "merged" / "model.safetensors").is_file()
