"""Train the two adapters that chapter 09 starts from: ``python -m course_utils.rlhf``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from course_utils.files import write_text
from course_utils.methods import merge, remove, save_adapter
from course_utils.models import load_base_model, load_tokenizer
from course_utils.rlhf.assistant import (
    ASSISTANT_TRAINING,
    REWARD_TRAINING,
    adapter_folder,
    classifier_on,
    train_assistant,
    train_reward_model,
)


def main(
    out: Annotated[Path | None, typer.Option(help="Folder; default: the course's own.")] = None,
) -> None:
    """Train the assistant and the reward model, and write their adapters."""
    out = out or adapter_folder("assistant").parent
    tokenizer = load_tokenizer("embedded")
    assistant = train_assistant(load_base_model("embedded"), tokenizer)
    _write(out / "assistant", assistant, ASSISTANT_TRAINING)
    reward = train_reward_model(classifier_on(remove(merge(assistant))), tokenizer)
    _write(out / "reward", reward, REWARD_TRAINING)


def _write(folder: Path, model: object, training: dict) -> None:
    save_adapter(model, folder)
    recipe = {"command": "python -m course_utils.rlhf", "training": training}
    write_text(folder / "training.json", json.dumps(recipe, indent=2) + "\n")
    typer.echo(f"wrote {folder}")


if __name__ == "__main__":
    typer.run(main)
