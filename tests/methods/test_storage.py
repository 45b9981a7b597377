import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from course_utils.methods import AdapterError, apply, load_adapter, save_adapter, set_rank
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.full import FullFineTuning
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.lora_xs import LoRAXSConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.storage import file_pair, read_adapter
from course_utils.methods.storage.fingerprint import base_fingerprint, is_same_base
from course_utils.methods.storage.folder import CONFIG_FILE, TENSORS_FILE
from course_utils.methods.tiny_lora import TinyLoRAConfig
from tests.methods.adapters import SHAPE, build, disturb, logits

CONFIGS = [
    LoRAConfig(rank=3),
    DoRAConfig(rank=2, use_rslora=True),
    DoRAConfig(rank=2, detach_norm=False),
    DyLoRAConfig(rank=3, target_modules=("q_proj", "down_proj")),
    NOLAConfig(rank=2, n_bases=5, seed=7),
    LoRAXSConfig(rank=3, alpha=5, target_modules=("q_proj", "down_proj")),
    TinyLoRAConfig(n_numbers=3, weight_tying=0.6, target_modules=("q_proj", "down_proj")),
    TinyLoRAConfig(n_numbers=1, is_saved_whole=False),
    # Numbers and collections of other libraries.
    LoRAConfig(rank=np.int64(2), alpha=np.float32(3), target_modules=frozenset({"v_proj"})),
    NOLAConfig(rank=np.int64(2), target_modules=frozenset({"v_proj", "o_proj"})),
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
    # Who may read the one may read the other.
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


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
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, other_tensors[name])


def test_nothing_of_the_base_is_written(folder: Path):
    assert all("lora_" in name for name in load_file(folder / TENSORS_FILE))


def test_the_base_is_named_unless_it_is_a_folder_of_this_machine(tmp_path: Path):
    for name, written in (("someone/model", "someone/model"), (str(tmp_path), None)):
        model = apply(build(), LoRAConfig(rank=2))
        model.config._name_or_path = name
        settings = json.loads((save_adapter(model, tmp_path) / CONFIG_FILE).read_text())
        assert settings["base_model_name_or_path"] == written


def test_a_folder_without_an_adapter(tmp_path: Path, folder: Path):
    refused(tmp_path / "nowhere", "holds no adapter: adapter_model.safetensors is missing")
    rewrite(folder)
    (folder / CONFIG_FILE).unlink()
    refused(folder, "holds no adapter: adapter_config.json is missing")
    (folder / TENSORS_FILE).unlink()
    refused(folder, "holds no adapter: adapter_model.safetensors is missing")


def test_a_truncated_file(folder: Path):
    path = folder / TENSORS_FILE
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, "holds a damaged adapter")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"peft_type": "LORA"}', "'r' is missing"),
        ("[]", r"\[\] is no object"),
        ("null", "None is no object"),
        ("{", "Expecting property name"),
        (
            '{"peft_type": "LORA", "r": 1e999, "lora_alpha": 1, "target_modules": "x"}',
            "1e999 is no finite number",
        ),
        ("[" * 100_000, "it nests too deep"),
        ('{"r": 1, "r": 2}', "the key 'r' is there twice"),
        ('{"r": NaN}', "NaN is no finite number"),
        ('{"r": -Infinity}', "-Infinity is no finite number"),
        ('{"r": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ("\ufeff{}", "Unexpected UTF-8 BOM"),
    ],
)
def test_a_damaged_configuration(folder: Path, text: str, reason: str):
    rewrite(folder)
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    refused(folder, f"{CONFIG_FILE} holds a damaged configuration: {reason}")


def test_a_huge_configuration_is_not_read(folder: Path):
    rewrite(folder)
    (folder / CONFIG_FILE).write_text(" " * (2**20 + 1))
    refused(folder, f"{CONFIG_FILE} must have at most 1048576 bytes")


WRONG = (True, 4.0, "4", "false", [1], {"a": 1}, -1, 10**19, "x" * 5000, "\ud800", [None])


@pytest.mark.parametrize(
    ("method", "right"),
    [
        (
            LoRAConfig(rank=2),
            {
                "r": (),
                "lora_alpha": (4.0,),
                "lora_dropout": (),
                "use_rslora": (True,),
                "use_dora": (),
                "base_model_name_or_path": ("4", "false"),
                "target_modules": ("4", "false"),
                "modules_to_save": (),
                "inference_mode": (True,),
                "rank_pattern": (),
                "an_option_of_tomorrow": (),
            },
        ),
        (
            PTuningConfig(num_virtual_tokens=2),
            {
                "num_virtual_tokens": (),
                "num_transformer_submodules": (),
                "encoder_reparameterization_type": (),
                "encoder_hidden_size": (),
                "encoder_dropout": (),
            },
        ),
        (PrefixTuningConfig(num_virtual_tokens=2), {"prefix_projection": (True,)}),
        (
            DyLoRAConfig(rank=2),
            {"rank": (), "rank_in_use": (), "target_modules": (), "use_rslora": (True,)},
        ),
        (NOLAConfig(rank=2), {"rank": (), "n_bases": (), "seed": ()}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_a_wrong_type_are_refused_in_one_sentence(method, right: dict, tmp_path: Path):
    """Written by hand into a file without a checksum."""
    folder, model = save_adapter(apply(build(), method), tmp_path), build()
    own = {"course_utils_version": "1"} if isinstance(method, DyLoRAConfig | NOLAConfig) else None
    save_file(load_file(folder / TENSORS_FILE), folder / TENSORS_FILE, metadata=own)
    config = json.loads((folder / CONFIG_FILE).read_text())
    for key, accepted in right.items():
        for value in WRONG:
            (folder / CONFIG_FILE).write_text(json.dumps(config | {key: value}))
            if any(type(value) is type(one) and value == one for one in accepted):
                read_adapter(folder)
                continue
            with pytest.raises(AdapterError) as refusal:
                load_adapter(model, folder)
            said = str(refusal.value).replace(str(folder), "")
            told = (key, "should be", "half of a character")
            assert any(words in said for words in told), (key, value, said)
            assert len(said) < 250
            assert "\n" not in said


def test_an_encoder_that_is_thrown_away_is_not_built(tmp_path: Path):
    prefix = PrefixTuningConfig(num_virtual_tokens=2, projection=True)
    # The largest that are allowed: a network of such a width would take 17 GB.
    for name, method, key, value in (
        ("p", PTuningConfig(num_virtual_tokens=2, encoder="lstm"), "encoder_num_layers", 128),
        ("mlp", PTuningConfig(num_virtual_tokens=2), "encoder_hidden_size", 2**16),
        ("v", prefix, "encoder_hidden_size", 2**16),
    ):
        model = apply(build(), method)
        folder = save_adapter(model, tmp_path / name)
        rewrite(folder, **{key: value})
        assert torch.allclose(logits(load_adapter(build(), folder)), logits(model), atol=1e-6)


def flipped(data: bytes, n_places: int) -> Iterator[bytes]:
    """The file with one bit turned, at places that are spread over it."""
    for k in range(n_places):
        place, bit = k * (len(data) - 1) // (n_places - 1), k % 8
        yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


@pytest.mark.parametrize("name", [CONFIG_FILE, TENSORS_FILE])
def test_a_turned_bit_or_a_missing_end_is_noticed(name: str, tmp_path: Path):
    model = disturb(apply(build(), LoRAConfig(rank=1, target_modules=("q_proj",))))
    path = save_adapter(model, tmp_path) / name
    whole = path.read_bytes()
    header = whole[: 8 + int.from_bytes(whole[:8], "little")] if name == TENSORS_FILE else b""
    in_header = [bits + whole[len(header) :] for bits in flipped(header, 60)] if header else []
    ends = [whole[: k * len(whole) // 8] for k in range(8)]
    for damaged in [*flipped(whole, 60), *in_header, *ends, whole + b"\0"]:
        path.write_bytes(damaged)
        with pytest.raises(AdapterError, match=r"damaged|has version"):
            read_adapter(tmp_path)
    path.write_bytes(whole)
    assert torch.equal(logits(load_adapter(build(), tmp_path)), logits(model))


def test_tensors_and_configuration_of_two_adapters(folder: Path, tmp_path: Path):
    other = save_adapter(apply(build(), DoRAConfig(rank=3, alpha=99)), tmp_path / "other")
    for name in (CONFIG_FILE, TENSORS_FILE):
        mixed = shutil.copytree(folder, tmp_path / name)
        shutil.copy(other / name, mixed / name)
        refused(mixed, "adapter_config.json was changed since")


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
    refused(folder, "was trained on 'someone/model', and this model is 'someone/other'", other)


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


def test_a_folder_must_be_a_path(tmp_path: Path):
    model = apply(build(), LoRAConfig(rank=2))
    for folder in (None, 5, ["x"], True):
        for call in (save_adapter, load_adapter):
            with pytest.raises(AdapterError, match=r"folder=.* must be a path"):
                call(model if call is save_adapter else build(), folder)
    with pytest.raises(AdapterError, match="was not written"):
        save_adapter(model, "a\0b")


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
    rewrite(folder, peft_type="PREFIX_TUNING", use_dora=False, r=None, bias=None)
    refused(folder, "uses lora_alpha=16, which is not read here")
    rewrite(folder, peft_type="BOFT")
    refused(folder, "adapter of type 'BOFT'; LORA, TINYLORA, PROMPT_TUNING, P_TUNING, PREFIX")
    rewrite(folder, course_utils_method="mylora")
    refused(folder, "has version ''; this course reads 1")
    tensors = load_file(folder / TENSORS_FILE)
    save_file(tensors, folder / TENSORS_FILE, metadata={"course_utils_version": "1"})
    refused(folder, "course_utils_method='mylora' must be one of dylora, nola")


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


@pytest.mark.parametrize("is_at_the_second", [False, True])
def test_a_failed_write_leaves_a_whole_adapter(folder: Path, monkeypatch, is_at_the_second: bool):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    new = disturb(apply(build(), LoRAConfig(rank=2)), seed=9)
    replace, calls = os.replace, []

    def failing(*names: object) -> None:
        calls.append(names)
        if len(calls) > is_at_the_second:
            raise OSError(28, "No space left on device")
        replace(*names)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing)
        message = "was written, but not for PEFT" if is_at_the_second else "was not written to"
        with pytest.raises(AdapterError, match=rf"{message}.*the disk is full"):
            save_adapter(new, folder)
    assert {path.name for path in folder.iterdir()} == set(before)
    if is_at_the_second:
        assert torch.equal(logits(load_adapter(build(), folder)), logits(new))
    else:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_killed_between_its_two_files_it_is_the_new_adapter(folder: Path):
    old = (folder / CONFIG_FILE).read_text()
    new = disturb(apply(build(), LoRAConfig(rank=2)), seed=9)
    litter = folder / f".{CONFIG_FILE}.{2**22 + 7}.tmp"  # no process has that number
    for left in (old, None):
        save_adapter(new, folder)
        (folder / CONFIG_FILE).write_text(old) if left else (folder / CONFIG_FILE).unlink()
        litter.write_text("half")
        assert torch.equal(logits(load_adapter(build(), folder)), logits(new))
    save_adapter(new, folder)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, TENSORS_FILE]


def test_two_that_save_at_once_leave_one_of_both_adapters(folder: Path, monkeypatch):
    first, second = (disturb(apply(build(), LoRAConfig(rank=rank))) for rank in (1, 2))
    write_text, calls = file_pair.write_text, []

    def overtaken(*what: object) -> None:
        calls.append(what)
        if len(calls) == 1:
            save_adapter(second, folder)
        write_text(*what)

    monkeypatch.setattr(file_pair, "write_text", overtaken)
    save_adapter(first, folder)
    assert torch.equal(logits(load_adapter(build(), folder)), logits(second))
    assert json.loads((folder / CONFIG_FILE).read_text())["r"] == 2


def test_numbers_that_are_not_finite_are_neither_written_nor_read(folder: Path, tmp_path: Path):
    model = apply(build(), LoRAConfig(rank=2))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.B[3, 1] = torch.nan
    with pytest.raises(
        AdapterError, match=r"was not written to .*lora_B.weight holds nan: it must be finite"
    ):
        save_adapter(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    tensors = load_file(folder / TENSORS_FILE)
    name = next(iter(tensors))
    for number, dtype in ((torch.inf, torch.float32), (1e300, torch.float64)):
        bad = tensors[name].to(dtype, copy=True)
        bad[0, 0] = number
        save_file(tensors | {name: bad}, folder / TENSORS_FILE)
        refused(folder, f"{name} holds inf: it must be finite")


def test_types_are_cast_or_refused_by_name(folder: Path):
    tensors = load_file(folder / TENSORS_FILE)
    before, name = logits(load_adapter(build(), folder)), next(iter(tensors))
    for dtype in (torch.float64, torch.bfloat16):
        save_file({n: t.to(dtype) for n, t in tensors.items()}, folder / TENSORS_FILE)
        assert torch.allclose(logits(load_adapter(build(), folder)), before, atol=0.05)
    for dtype in (torch.int32, torch.bool, torch.float8_e4m3fn):
        save_file(tensors | {name: tensors[name].to(dtype)}, folder / TENSORS_FILE)
        refused(folder, f"{name} is of type {str(dtype)[6:]} and must be one of float32, float16")


def test_a_damaged_fingerprint_is_none_and_never_a_match(folder: Path):
    right = base_fingerprint(build())
    parts, tensors = json.loads(right), load_file(folder / TENSORS_FILE)
    changed = [
        {name: value for name, value in parts.items() if name != "norms"},
        parts | {"more": parts["norms"]},
        *(parts | {"embedding": value} for value in ("", "x", "AAAA", 5, None, "é", [])),
        *([], 5, None, "x", {}),
    ]
    for text in (*map(json.dumps, changed), "", "{", "[" * 100_000, right[:-9]):
        with pytest.raises(ValueError, match="is no fingerprint of a base model"):
            is_same_base(text, right)
    header = {"course_utils_version": "1", "base_fingerprint": "[" * 100_000}
    save_file(tensors, folder / TENSORS_FILE, metadata=header)
    refused(folder, "damaged adapter: .* is no fingerprint of a base model")


def test_the_rank_that_a_dylora_is_set_to_is_stored(tmp_path: Path):
    model = set_rank(disturb(apply(build(), DyLoRAConfig(rank=4))), 2)
    again = load_adapter(build(), save_adapter(model, tmp_path))
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(logits(set_rank(again, 4)), logits(set_rank(model, 4)))


def test_a_prompt_is_stored_without_its_dropout(tmp_path: Path):
    method = PTuningConfig(num_virtual_tokens=3, encoder="lstm", dropout=0.9)
    model = apply(build(), method)
    right = logits(model)
    again = load_adapter(build(), save_adapter(model.train(), tmp_path))
    assert torch.allclose(logits(again), right, atol=1e-6)
    assert model.soft_prompt.encoder.network.training


def test_a_header_that_lacks_a_part_is_noticed(folder: Path):
    tensors = load_file(folder / TENSORS_FILE)
    with safe_open(folder / TENSORS_FILE, "pt") as file:
        header = file.metadata()
    for name in header.keys() - {"format", "course_utils_version"}:
        less = {key: value for key, value in header.items() if key != name}
        save_file(tensors, folder / TENSORS_FILE, metadata=less)
        with pytest.raises(AdapterError, match=f"the header of {TENSORS_FILE} lacks {name}"):
            read_adapter(folder)


def test_an_adapter_of_version_1_still_loads(folder: Path):
    tensors, before = load_file(folder / TENSORS_FILE), logits(load_adapter(build(), folder))
    with safe_open(folder / TENSORS_FILE, "pt") as file:
        header = file.metadata()
    config = (folder / CONFIG_FILE).read_bytes()
    first = {
        "format": "pt",
        "course_utils_version": "1",
        "config_sha256": file_pair.sha256_of(config),
        "base_fingerprint": header["base_fingerprint"],
    }
    save_file(tensors, folder / TENSORS_FILE, metadata=first)
    assert torch.equal(logits(load_adapter(build(), folder)), before)
    (folder / CONFIG_FILE).write_bytes(config + b" ")
    refused(folder, "adapter_config.json was changed since")


def test_writing_into_a_file_is_refused(tmp_path: Path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(AdapterError, match="was not written"):
        save_adapter(apply(build(), LoRAConfig(rank=2)), tmp_path / "taken")
