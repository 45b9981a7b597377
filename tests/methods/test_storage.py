import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from course_utils.methods import AdapterError, apply, load_adapter, save_adapter
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.full import FullFineTuning
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.storage.folder import CONFIG_FILE, TENSORS_FILE
from tests.methods.adapters import SHAPE, build, disturb, logits

CONFIGS = [
    LoRAConfig(rank=3),
    DoRAConfig(rank=2, use_rslora=True),
    DoRAConfig(rank=2, detach_norm=False),
    DyLoRAConfig(rank=3, target_modules=("q_proj", "down_proj")),
    NOLAConfig(rank=2, n_bases=5, seed=7),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of `build()`, rank 3."""
    return save_adapter(disturb(apply(build(), DoRAConfig(rank=3))), tmp_path / "adapter")


def rewrite(folder: Path, **changes: object) -> None:
    """Change the configuration, in a file that says nothing of where it comes from, as PEFT's."""
    save_file(load_file(folder / TENSORS_FILE), folder / TENSORS_FILE)
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, message: str, model=None) -> None:
    """Loading says so, and the model is as it was."""
    model = model or build()
    before = logits(model)
    with pytest.raises(AdapterError, match=message):
        load_adapter(model, folder)
    assert not adapted_layers(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_saved_is_loaded(config, tmp_path: Path):
    model = disturb(apply(build(), config))
    save_adapter(model, tmp_path)
    again = load_adapter(build(), tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert again.fine_tuning_method.rank == config.rank
    assert type(again.fine_tuning_method) is type(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_FILE, TENSORS_FILE]


def test_doras_file_does_not_depend_on_how_it_trained(tmp_path: Path):
    files = []
    for detach_norm in (True, False):
        model = disturb(apply(build(), DoRAConfig(rank=2, detach_norm=detach_norm)))
        folder = save_adapter(model, tmp_path / str(detach_norm))
        files.append(((folder / CONFIG_FILE).read_text(), load_file(folder / TENSORS_FILE)))
        assert load_adapter(build(), folder).fine_tuning_method.detach_norm
    (settings, tensors), (other_settings, other_tensors) = files
    assert settings == other_settings
    assert tensors.keys() == other_tensors.keys()
    assert all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())


def test_nothing_of_the_base_is_written(folder: Path):
    assert all("lora_" in name for name in load_file(folder / TENSORS_FILE))


def test_the_base_is_named_unless_it_is_a_folder_of_this_machine(tmp_path: Path):
    for name, written in (("someone/model", "someone/model"), (str(tmp_path), None)):
        model = apply(build(), LoRAConfig(rank=2))
        model.config._name_or_path = name
        settings = json.loads((save_adapter(model, tmp_path) / CONFIG_FILE).read_text())
        assert settings["base_model_name_or_path"] == written


def test_a_folder_without_an_adapter(tmp_path: Path, folder: Path):
    refused(tmp_path / "nowhere", "holds no adapter: adapter_config.json is missing")
    (folder / TENSORS_FILE).unlink()
    refused(folder, "holds no adapter: adapter_model.safetensors is missing")


def test_a_truncated_file(folder: Path):
    path = folder / TENSORS_FILE
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, "holds a damaged adapter")


def test_a_damaged_configuration(folder: Path):
    rewrite(folder)
    for text in ('{"peft_type": "LORA"}', "[]", "null"):
        (folder / CONFIG_FILE).write_text(text)
        refused(folder, "holds a damaged configuration")
    (folder / CONFIG_FILE).write_text("{")
    refused(folder, "holds a damaged adapter")


def test_tensors_and_configuration_of_two_adapters(folder: Path, tmp_path: Path):
    other = save_adapter(apply(build(), DoRAConfig(rank=3, alpha=99)), tmp_path / "other")
    shutil.copy(other / CONFIG_FILE, folder / CONFIG_FILE)
    refused(folder, "adapter_config.json was changed since")


def test_another_base_of_the_same_shape(folder: Path):
    refused(folder, "was trained on another base model", build(seed=5))
    tuned = build()
    with torch.no_grad():  # the embedding is the same, a layer is not
        tuned.model.layers[1].mlp.up_proj.weight.mul_(1.02)
    refused(folder, "was trained on another base model", tuned)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_base_in_16_bits_is_the_same_base(folder: Path, dtype: torch.dtype, tmp_path):
    assert adapted_layers(load_adapter(build().to(dtype), folder))
    half = save_adapter(apply(build().to(dtype), LoRAConfig(rank=2)), tmp_path / "half")
    assert adapted_layers(load_adapter(build(), half))


def test_an_adapter_of_another_hub_model(folder: Path):
    rewrite(folder, base_model_name_or_path="someone/model")
    other = build()
    other.config._name_or_path = "someone/other"
    refused(folder, "was trained on someone/model, and this model is someone/other", other)


def test_a_head_that_is_missing_or_of_another_shape(tmp_path: Path):
    def classifier(num_labels: int) -> LlamaForSequenceClassification:
        torch.manual_seed(0)
        return LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=num_labels))

    save_adapter(apply(classifier(3), LoRAConfig(rank=2)), tmp_path)
    for n in (1, 5):
        with pytest.raises(AdapterError, match=rf"score.weight is \(3, 40\) and should be \({n}, "):
            load_adapter(classifier(n), tmp_path)
    rewrite(tmp_path)
    tensors = load_file(tmp_path / TENSORS_FILE)
    del tensors["base_model.model.score.weight"]
    save_file(tensors, tmp_path / TENSORS_FILE)
    with pytest.raises(AdapterError, match=r"score.weight is missing and should be \(3, 40\)"):
        load_adapter(classifier(3), tmp_path)


def test_a_model_that_carries_an_adapter(folder: Path):
    with pytest.raises(AdapterError, match="carries an adapter already"):
        load_adapter(apply(build(), LoRAConfig(rank=2)), folder)


def test_layers_chosen_by_a_pattern_are_found_by_their_tensors(folder: Path):
    before = logits(load_adapter(build(), folder))
    rewrite(folder, target_modules=".*_proj", exclude_modules=["nothing"])
    assert torch.equal(logits(load_adapter(build(), folder)), before)


def test_dropout_of_a_loaded_adapter_is_off_in_a_model_that_evaluates(tmp_path: Path):
    model = disturb(apply(build(), DoRAConfig(rank=2, dropout=0.5)))
    save_adapter(model, tmp_path)
    assert torch.equal(logits(load_adapter(build(), tmp_path)), logits(model))


def test_another_shape(folder: Path):
    rewrite(folder, r=4)
    refused(folder, r"lora_A.weight is \(3, 72\) and should be \(4, 72\)")


def test_a_layer_that_is_missing_or_too_many(folder: Path):
    tensors = load_file(folder / TENSORS_FILE)
    name = next(name for name in tensors if name.endswith("lora_magnitude_vector"))
    save_file({n: t for n, t in tensors.items() if n != name}, folder / TENSORS_FILE)
    refused(folder, "is missing and should be")
    save_file(tensors, folder / TENSORS_FILE)
    rewrite(folder, use_dora=False)
    refused(folder, "should be absent")


def test_a_foreign_adapter(folder: Path):
    rewrite(folder, peft_type="PREFIX_TUNING")
    refused(folder, "damaged configuration: 'num_virtual_tokens'")
    rewrite(folder, peft_type="BOFT")
    refused(folder, "adapter of type 'BOFT'; LORA, PROMPT_TUNING, P_TUNING, PREFIX_TUNING can be")
    rewrite(folder, peft_type="LORA", rank_pattern={"q_proj": 4})
    refused(folder, "uses rank_pattern=")
    for name, value in (("bias", "all"), ("init_lora_weights", "pissa")):
        rewrite(folder, rank_pattern={}, **{name: value})
        refused(folder, f"uses {name}='{value}', which is not read here")
        rewrite(folder, bias="none", init_lora_weights=True)
    rewrite(folder, course_utils_method="mylora")
    refused(folder, "has version ''; this course reads 1")
    tensors = load_file(folder / TENSORS_FILE)
    save_file(tensors, folder / TENSORS_FILE, metadata={"course_utils_version": "1"})
    refused(folder, "holds 'mylora', which must be one of dylora, nola")


def test_another_version(folder: Path):
    tensors = load_file(folder / TENSORS_FILE)
    save_file(tensors, folder / TENSORS_FILE, metadata={"course_utils_version": "9"})
    refused(folder, "has version '9'; this course reads 1")


def test_another_architecture(folder: Path):
    save_file(load_file(folder / TENSORS_FILE), folder / TENSORS_FILE)  # says nothing of its base
    refused(folder, "does not fit this model: target_modules='model.layers", build("gpt2"))


def test_a_model_without_an_adapter_cannot_be_saved(tmp_path: Path):
    for model in (build(), apply(build(), FullFineTuning())):
        with pytest.raises(AdapterError, match="carries no adapter"):
            save_adapter(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_earlier_adapter_whole(folder: Path, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("course_utils.methods.storage.folder.save_file", full_disk)
    with pytest.raises(AdapterError, match=r"was not written to .*No space left"):
        save_adapter(disturb(apply(build(), LoRAConfig(rank=2)), seed=9), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_writing_into_a_file_is_refused(tmp_path: Path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(AdapterError, match="was not written"):
        save_adapter(apply(build(), LoRAConfig(rank=2)), tmp_path / "taken")
