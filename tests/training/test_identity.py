"""A run is taken up by the same run only, and a refusal names what differs."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import LlamaForSequenceClassification

from course_utils.methods import apply
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.quantization import quantize_model
from course_utils.training.examples import MOST_LOOKED_AT
from tests.training.runs import random_examples, tiny_llama, whole_run


def with_lora(base: nn.Module | None = None, **options: object) -> nn.Module:
    return apply(base or tiny_llama(), LoRAConfig(**{"rank": 1, "alpha": 2} | options))


def with_peft(**options: object) -> nn.Module:
    torch.manual_seed(0)
    names = ["q_proj"]
    return peft.get_peft_model(
        tiny_llama(), peft.LoraConfig(**{"r": 1, "target_modules": names} | options)
    )


def classifier() -> nn.Module:
    """A classifier whose head starts at random, as behind a new trunk's ``from_pretrained``."""
    model = tiny_llama(kind=LlamaForSequenceClassification, num_labels=3)
    nn.init.normal_(model.score.weight)
    return model


def changed(model: nn.Module, name: str, by: float = 1e-3) -> nn.Module:
    """One weight of the base, moved a little."""
    with torch.no_grad():
        model.get_submodule(name).weight[1, 1] += by
    return model


def in_four_bits(by: float = 0.0) -> nn.Module:
    base = changed(tiny_llama(), "model.layers.1.mlp.up_proj", by)
    return with_lora(quantize_model(base, block_size=32))


def only(examples: list[dict], **changes: object) -> list[dict]:
    """The same examples but for one."""
    return [*examples[:3], examples[3] | changes, *examples[4:]]


ROWS = random_examples(40)
DIFFERENT = {
    "rank": (with_lora, lambda: {"model": with_lora(rank=4)}, r"another method .*rank=1 there, 4"),
    "alpha": (with_lora, lambda: {"model": with_lora(alpha=9)}, r"method \(alpha=2 there, 9 here"),
    "method": (
        with_lora,
        lambda: {"model": apply(tiny_llama(), DoRAConfig(rank=1, alpha=2))},
        "type=LoRAConfig there, DoRAConfig here",
    ),
    "no method": (with_lora, lambda: {"model": tiny_llama()}, "LoRAConfig there, none here"),
    "alpha of PEFT's": (
        with_peft,
        lambda: {"model": with_peft(lora_alpha=64)},
        "another method .*lora_alpha=8 there, 64 here",
    ),
    "frozen base": (
        with_lora,
        lambda: {"model": with_lora(tiny_llama(seed=1))},
        "another base model .weights=",
    ),
    "one weight of the base": (
        with_lora,
        lambda: {"model": with_lora(changed(tiny_llama(), "model.layers.1.mlp.up_proj"))},
        "another base model .weights=",
    ),
    "four bits": (with_lora, lambda: {"model": in_four_bits()}, "another base model .weights="),
    "four bits of another base": (
        in_four_bits,
        lambda: {"model": in_four_bits(by=0.5)},
        "another base model .weights=",
    ),
    "full fine-tuning's base": (
        tiny_llama,
        lambda: {"model": tiny_llama(seed=1)},
        "another base model .weights=",
    ),
    "dropout of the base": (
        tiny_llama,
        lambda: {"model": tiny_llama(dropout=0.5)},
        "base model .attention_dropout=0 there, 0.5 here",
    ),
    "what trains": (
        tiny_llama,
        lambda: {"model": half_trained()},
        "other trained parameters",
    ),
    "types": (tiny_llama, lambda: {"model": tiny_llama().bfloat16()}, "float32 .* there, bfloat16"),
    "other examples": (with_lora, lambda: {"examples": ROWS[:20]}, "examples .*contents"),
    "one token": (
        with_lora,
        lambda: {"examples": only(ROWS, input_ids=[9] * len(ROWS[3]["labels"]))},
        "other examples",
    ),
    "one label": (
        with_lora,
        lambda: {"examples": only(ROWS, labels=[-100, *ROWS[3]["labels"][1:]])},
        "other examples",
    ),
    "learning rate": (
        with_lora,
        lambda: {"learning_rate": 1e-3},
        r"configuration \(learning_rate=0.01 there, 0.001 here\)",
    ),
}


def half_trained() -> nn.Module:
    model = tiny_llama().requires_grad_(False)
    model.lm_head.requires_grad_(True)
    return model


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_run_is_refused_by_name(what: str, tmp_path: Path):
    make, change, message = DIFFERENT[what]
    is_finished = what in ("rank", "frozen base")
    whole_run(tmp_path, model=make(), examples=ROWS, stop_at=None if is_finished else 3)
    options = {"model": make(), "examples": ROWS} | change()
    before = [p.detach().clone() for p in options["model"].parameters()]
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"holds a run with .*{message}") as caught:
        whole_run(tmp_path, **options)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 250
    for old, parameter in zip(before, options["model"].parameters(), strict=True):
        assert torch.equal(old, parameter)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files


SAME: dict[str, Callable[[], nn.Module]] = {
    "LoRA, whose A starts at random": with_lora,
    "a prompt, which starts at random": lambda: apply(
        tiny_llama(), PromptTuningConfig(num_virtual_tokens=3)
    ),
    "a classifier, whose head starts at random": classifier,
    "four bits": in_four_bits,
    "full fine-tuning": tiny_llama,
}


@pytest.mark.parametrize("what", SAME)
def test_what_a_run_brings_itself_may_start_elsewhere(what: str, tmp_path: Path):
    """Nobody has to seed what a checkpoint holds; the result has the bits of an unbroken run."""
    rows = [row | {"labels": i % 3} for i, row in enumerate(ROWS)] if "classif" in what else ROWS
    torch.manual_seed(1)
    first = SAME[what]()
    torch.manual_seed(1)
    whole = SAME[what]()
    expected = whole_run(tmp_path / "whole", model=whole, examples=rows) if mkdir(tmp_path) else 0
    whole_run(tmp_path / "part", model=first, examples=rows, stop_at=3)
    torch.manual_seed(2)
    second = SAME[what]()
    result = whole_run(tmp_path / "part", model=second, examples=rows)
    assert result.losses == expected.losses
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def mkdir(folder: Path) -> bool:
    for name in ("whole", "part"):
        (folder / name).mkdir()
    return True


def test_interrupted_and_started_again_on_the_same_model_it_is_the_same_run(tmp_path: Path):
    """Full fine-tuning has moved the base by then; a model that came by other ways is another."""
    mkdir(tmp_path)
    expected = whole_run(tmp_path / "whole")
    model = tiny_llama(dropout=0.1)
    whole_run(tmp_path / "part", model=model, stop_at=3)
    assert whole_run(tmp_path / "part", model=model).losses == expected.losses
    assert whole_run(tmp_path / "part", model=model).losses == expected.losses
    changed(model, "lm_head")
    with pytest.raises(ValueError, match="another base model"):
        whole_run(tmp_path / "part", model=model)


class Store(list):
    """Examples that are read when they are asked for, and say how long they are."""

    def __init__(self, count: int) -> None:
        super().__init__(random_examples(10))
        self.count, self.reads, self.lengths = count, 0, [len(self[0]["labels"])] * count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        self.reads = getattr(self, "reads", 0) + 1
        return super().__getitem__(0)


def test_of_a_large_store_a_spread_is_read(tmp_path: Path):
    store = Store(10 * MOST_LOOKED_AT)
    whole_run(tmp_path, examples=store, max_steps=2)
    assert store.reads < 1.01 * MOST_LOOKED_AT
    store.lengths[5] += 1
    with pytest.raises(ValueError, match="other examples"):
        whole_run(tmp_path, examples=store, max_steps=2)
