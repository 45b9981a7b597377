"""Shapes of models: from a name, a configuration or a model, and the parameters that follow."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import (
    LlamaConfig,
    MixtralConfig,
)

from course_utils.memory import (
    architecture_of,
    known_architectures,
)
from course_utils.paths import data_dir
from tests.memory.steps import (
    SHAPES,
    Case,
    build,
    tied,
)


def published() -> dict[str, int]:
    """Return the parameter counts of data/architectures.yaml."""
    text = (data_dir() / "architectures.yaml").read_text(encoding="utf-8")
    return {name: entry["parameters"] for name, entry in yaml.safe_load(text).items()}


@pytest.mark.parametrize(("name", "n_parameters"), published().items())
def test_dimensions_give_the_published_number_of_parameters(name: str, n_parameters: int) -> None:
    assert known_architectures()[name].n_parameters == n_parameters


def test_many_models_are_known_and_three_counts_are_quoted_from_elsewhere() -> None:
    assert len(known_architectures()) >= 18
    assert published()["Llama-2-7B"] == 6_738_415_616
    assert published()["Qwen3-0.6B"] == 596_049_920
    assert published()["SmolLM2-135M"] == 134_515_008


@pytest.mark.parametrize("n_labels", [None, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_architecture_of_a_model_counts_its_parameters(shape: str, n_labels: int | None) -> None:
    model = build(Case(shape=shape, n_labels=n_labels))
    architecture = architecture_of(model)
    assert architecture.n_parameters == sum(p.numel() for p in model.parameters())
    assert architecture.n_labels == n_labels
    block = {name: p.numel() for name, p in model.model.layers[0].named_parameters()}
    assert architecture.block_parameters() == {
        name.removeprefix("self_attn.").removeprefix("mlp."): size for name, size in block.items()
    }


def test_architecture_comes_from_a_model_its_configuration_or_a_name() -> None:
    config = LlamaConfig()  # transformers' defaults are Llama 2 7B's dimensions
    known = known_architectures()["Llama-2-7B"]
    assert replace(architecture_of(config), name=known.name) == known
    for name in ("Llama-2-7B", "llama-2-7b", "meta-llama/Llama-2-7b-hf"):
        assert architecture_of(name) is known or architecture_of(name) == known
    assert architecture_of(known) is known
    wrapped = build(Case(shape="qwen3", method="lora q v"))
    assert architecture_of(wrapped) == architecture_of(SHAPES["qwen3"])


def test_folder_of_a_model_does_not_show_in_its_name(tmp_path) -> None:
    config = LlamaConfig(name_or_path=str(tmp_path / "base_model"))
    assert architecture_of(config).name == "base_model"


def test_unknown_names_list_similar_ones_and_uncovered_families_the_covered() -> None:
    with pytest.raises(ValueError, match=r"Qwen3-0\.6B") as error:
        architecture_of("Qwen/Qwen3-0.5B")
    assert "Mistral" not in str(error.value)
    with pytest.raises(ValueError, match=r"no architecture is called 'zzzz'.*Llama-2-7B"):
        architecture_of("zzzz")
    with pytest.raises(ValueError, match=r"mixtral.*llama.*mixtures of experts"):
        architecture_of(MixtralConfig())
    with pytest.raises(ValueError, match="Linear"):
        architecture_of(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_ff": 0}, "d_ff=0 must be at least 1"),
        ({"n_layers": 2.5}, "n_layers=2.5 must be a whole number, at least 1"),
        ({"n_labels": 0}, "n_labels=0 must be at least 1"),
        ({"tied_embeddings": "false"}, "tied_embeddings='false' must be True or False"),
        ({"qk_norm": "row"}, "qk_norm='row' must be one of none, head, full"),
        ({"norm_placement": None}, "norm_placement=None must be one of pre, post, sandwich"),
        ({"n_kv_heads": 4}, "n_kv_heads=4 must divide n_heads=9"),
    ],
)
def test_shapes_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tied(), **changes)


def test_importing_does_not_load_torch() -> None:
    code = (
        "import sys, course_utils.memory as m; m.known_architectures();"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
