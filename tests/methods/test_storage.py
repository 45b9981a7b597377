import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_utils.methods import AdapterError, apply, load_adapter, save_adapter
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.frozen import FullFineTuning
from course_utils.methods.linear import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.storage import CONFIG_FILE, TENSORS_FILE
from tests.methods.adapters import build, disturb, logits

CONFIGS = [
    LoRAConfig(rank=3),
    DoRAConfig(rank=2, use_rslora=True),
    DyLoRAConfig(rank=3, target_modules=("q_proj", "down_proj")),
    NOLAConfig(rank=2, n_bases=5, seed=7),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of `build()`, rank 3."""
    return save_adapter(disturb(apply(build(), DoRAConfig(rank=3))), tmp_path / "adapter")


def rewrite(folder: Path, **changes: object) -> None:
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
    (folder / CONFIG_FILE).write_text("{")
    refused(folder, "holds a damaged adapter")
    (folder / CONFIG_FILE).write_text('{"peft_type": "LORA"}')
    refused(folder, "holds a damaged configuration")


def test_another_base_of_the_same_shape(folder: Path):
    refused(folder, "was trained on another base model", build(seed=5))


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
    refused(folder, "adapter of type 'PREFIX_TUNING'; LORA can be read")
    rewrite(folder, peft_type="LORA", rank_pattern={"q_proj": 4})
    refused(folder, "uses rank_pattern=")
    rewrite(folder, course_utils_method="mylora")
    refused(folder, "holds 'mylora', which must be one of dylora, nola")


def test_another_version(folder: Path):
    tensors = load_file(folder / TENSORS_FILE)
    save_file(tensors, folder / TENSORS_FILE, metadata={"course_utils_version": "9"})
    refused(folder, "has version '9'; this course reads 1")


def test_another_architecture(folder: Path):
    save_file(load_file(folder / TENSORS_FILE), folder / TENSORS_FILE)  # says nothing of its base
    refused(folder, "does not fit this model: target_modules='q_proj'|does not fit", build("gpt2"))


def test_a_model_without_an_adapter_cannot_be_saved(tmp_path: Path):
    for model in (build(), apply(build(), FullFineTuning())):
        with pytest.raises(AdapterError, match="carries no adapter"):
            save_adapter(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_earlier_adapter_whole(folder: Path, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("course_utils.methods.storage.save_file", full_disk)
    with pytest.raises(AdapterError, match=r"was not written to .*No space left"):
        save_adapter(disturb(apply(build(), LoRAConfig(rank=2)), seed=9), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_writing_into_a_file_is_refused(tmp_path: Path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(AdapterError, match="was not written"):
        save_adapter(apply(build(), LoRAConfig(rank=2)), tmp_path / "taken")
    shutil.rmtree(tmp_path)
