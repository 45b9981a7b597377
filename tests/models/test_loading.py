"""Loading models and tokenizers: what arrives, and one clear sentence for what does not."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from logging import INFO, Handler
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForPreTraining
from transformers.utils import logging

from course_utils.models import (
    build_random_model,
    load_base_model,
    load_tokenizer,
    verify_checksums,
    write_checksums,
)
from course_utils.models import loading as models
from course_utils.models.profiles import current_profile
from tests.tiny_models import (
    ARCHITECTURES,
    SPECIAL_TOKENS,
    add_own_code,
    change_config,
    write_hostile_pickle,
    write_tiny_model,
)


@pytest.fixture(scope="module")
def untouched_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that no test may change."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=3)
    write_checksums(folder)
    return folder


@pytest.fixture
def folder(untouched_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the model that the test may change."""
    return Path(shutil.copytree(untouched_folder, tmp_path / "model"))


@pytest.fixture
def embedded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the copy the embedded model."""
    monkeypatch.setattr(models, "embedded_model_dir", lambda: folder)
    return folder


@pytest.fixture
def tokens() -> torch.Tensor:
    """Return random bytes as token ids, (batch 2, seq 12)."""
    return torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(0))


def assert_raises_one_sentence(error: type[Exception], *parts: str, call, at=None) -> None:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is error
    assert len(message.splitlines()) == 1
    assert len(message) < 400 + 3 * len(str(at or ""))
    for part in (*parts, str(at or "")):
        assert part in message


# What arrives


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loaded_model_is_the_saved_one(tmp_path, tokens, architecture):
    write_tiny_model(tmp_path, architecture, seed=5)
    model = load_base_model(tmp_path)
    config_class, model_class = ARCHITECTURES[architecture]
    assert type(model) is model_class
    saved = model_class(config_class.from_pretrained(tmp_path)).eval()
    missing, unexpected = saved.load_state_dict(load_file(tmp_path / "model.safetensors"), False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied to the embedding
    saved.tie_weights()
    assert torch.equal(model(tokens).logits, saved(tokens).logits)


def test_every_name_of_the_embedded_model_gives_the_same_weights(embedded):
    sources = (
        None,
        "embedded",
        current_profile({"COURSE_PROFILE": "cpu"}),
        embedded,
        str(embedded),
    )
    expected = load_file(embedded / "model.safetensors")
    for source in sources:
        state = load_base_model(source).state_dict()
        assert all(torch.equal(state[key], value) for key, value in expected.items())
        assert load_tokenizer(source).get_vocab() == load_tokenizer(embedded).get_vocab()


def test_course_model_names_a_folder(folder, monkeypatch):
    monkeypatch.setenv("COURSE_MODEL", str(folder))
    assert load_base_model().config.vocab_size == 320
    assert len(load_tokenizer()) == 256 + len(SPECIAL_TOKENS)


def test_folders_are_relative_to_here_and_to_home(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for source in ("model", "./model", "~/model", Path("model"), Path("~/model")):
        assert load_tokenizer(source).eos_token == SPECIAL_TOKENS[0]


def test_a_model_arrives_ready_to_be_measured_and_to_be_trained(folder):
    model = load_base_model(folder)
    assert not model.training
    assert model.device.type == "cpu"
    for parameter in model.parameters():
        assert parameter.requires_grad
        assert parameter.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16, torch.float64])
def test_weights_come_in_the_type_asked_for(folder, dtype):
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    model = load_base_model(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


def test_weights_saved_in_half_precision_come_in_float32(folder):
    weights = folder / "model.safetensors"
    half = {key: value.half() for key, value in load_file(weights).items()}
    save_file(half, weights, metadata={"format": "pt"})
    change_config(folder, dtype="float16")
    assert {p.dtype for p in load_base_model(folder).parameters()} == {torch.float32}


@pytest.fixture
def remarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return what transformers logs and the bars it draws, with all of its messages allowed."""
    seen: list[str] = []
    handler = Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    monkeypatch.setattr("tqdm.auto.tqdm.display", lambda bar, *args, **kwargs: seen.append("bar"))
    verbosity = logging.get_verbosity()
    logging.set_verbosity_info()
    logging.add_handler(handler)
    yield seen
    logging.remove_handler(handler)
    logging.set_verbosity(verbosity)


def test_loading_says_nothing_and_leaves_the_folder_and_the_settings_alone(folder, remarks):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    load_base_model(folder)
    load_base_model(folder, num_labels=2)
    load_tokenizer(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(ValueError, match="do not fit"):
        load_base_model(folder)
    assert remarks == []
    assert logging.get_verbosity() == INFO
    assert logging.is_progress_bar_enabled()


def test_transformers_itself_would_say_something(folder, remarks):
    AutoModelForSequenceClassification.from_pretrained(folder)
    assert "bar" in remarks
    assert any("LOAD REPORT" in remark for remark in remarks)


# Tokenizers


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_text_survives_the_way_through_the_tokenizer(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def tokenizer(untouched_folder: Path):
    """Return the model's tokenizer."""
    return load_tokenizer(untouched_folder)


def test_a_tokenizer_without_padding_pads_with_its_end(tokenizer):
    assert tokenizer.pad_token == tokenizer.eos_token == SPECIAL_TOKENS[0]
    batch = tokenizer(["a", "abc"], padding=True)
    assert batch["attention_mask"] == [[1, 0, 0], [1, 1, 1]]
    assert batch["input_ids"][0][1:] == [tokenizer.eos_token_id] * 2


def test_a_tokenizer_keeps_its_own_padding(tmp_path):
    write_tiny_model(tmp_path, pad_token="<|pad|>")
    assert load_tokenizer(tmp_path).pad_token == "<|pad|>"


# Classification heads


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_labels", [1, 2, 6])
def test_a_classifier_is_the_same_trunk_under_a_new_head(tmp_path, architecture, num_labels):
    write_tiny_model(tmp_path, architecture)
    classifier = load_base_model(tmp_path, num_labels=num_labels)
    assert classifier.score.weight.shape == (num_labels, 64)
    base = load_base_model(tmp_path).model.state_dict()
    trunk = classifier.model.state_dict()
    assert base.keys() == trunk.keys()
    assert all(torch.equal(trunk[key], value) for key, value in base.items())


@pytest.mark.parametrize("build", [load_base_model, build_random_model])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_token_classifier_labels_every_token(tmp_path, tokens, architecture, build):
    write_tiny_model(tmp_path, architecture)
    classifier = build(tmp_path, num_labels=5, label_level="token")
    assert not classifier.training
    assert classifier.config.pad_token_id == load_tokenizer(tmp_path).pad_token_id
    assert classifier(tokens).logits.shape == (2, 12, 5)
    hidden = classifier.model(tokens).last_hidden_state
    torch.testing.assert_close(classifier(tokens).logits, classifier.score(hidden))
    if build is load_base_model:
        assert torch.equal(hidden, load_base_model(tmp_path).model(tokens).last_hidden_state)


def test_the_seed_decides_the_head(folder):
    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return load_base_model(folder, num_labels=3).score.weight

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


@pytest.mark.parametrize("pad_token", [None, "<|pad|>"])
def test_a_padded_batch_is_classified_like_its_texts_alone(tmp_path, pad_token):
    write_tiny_model(tmp_path, pad_token=pad_token)
    classifier, tokenizer = load_base_model(tmp_path, num_labels=4), load_tokenizer(tmp_path)
    assert classifier.config.pad_token_id == tokenizer.pad_token_id
    texts = ["The miller sold two goats.", "Rain.", "A cheese, a rope and a lamp."]
    together = classifier(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    alone = [classifier(**tokenizer(text, return_tensors="pt")).logits for text in texts]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_a_padding_token_in_the_config_is_kept(folder):
    change_config(folder, pad_token_id=7)
    assert load_base_model(folder, num_labels=2).config.pad_token_id == 7


# Random weights


@pytest.mark.parametrize("num_labels", [None, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_random_model_has_the_shape_of_the_trained_one_and_nothing_it_learned(
    tmp_path, architecture, num_labels
):
    write_tiny_model(tmp_path, architecture, seed=5)
    change_config(tmp_path, dtype="bfloat16")
    torch.manual_seed(0)
    trained = load_base_model(tmp_path, num_labels=num_labels)
    random = build_random_model(tmp_path, num_labels=num_labels)
    assert type(random) is type(trained)
    assert random.training == trained.training
    assert random.config.pad_token_id == trained.config.pad_token_id
    state = trained.state_dict()
    assert random.state_dict().keys() == state.keys()
    for key, value in random.state_dict().items():
        assert (value.shape, value.dtype) == (state[key].shape, torch.float32)
        assert torch.equal(value, state[key]) == key.endswith("norm.weight")  # ones in both


def test_the_seed_decides_a_random_model(folder):
    def embedding(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_random_model(folder).get_input_embeddings().weight

    assert torch.equal(embedding(0), embedding(0))
    assert not torch.equal(embedding(0), embedding(1))


def test_a_random_model_needs_no_weights_and_runs_no_code(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    assert build_random_model(folder).config.vocab_size == 320
    add_own_code(folder, model_type="gizmo", touches=tmp_path / "ran")
    assert_raises_one_sentence(
        ValueError, "its own code", call=lambda: build_random_model(folder), at=folder
    )
    assert not (tmp_path / "ran").exists()


# Arguments


@pytest.mark.parametrize("load", [load_base_model, build_random_model])
@pytest.mark.parametrize("num_labels", [0, -1])
def test_a_head_needs_a_label(folder, load, num_labels):
    with pytest.raises(ValueError, match=f"num_labels={num_labels} must be in 1..65536"):
        load(folder, num_labels=num_labels)


@pytest.mark.parametrize("load", [load_base_model, build_random_model])
def test_the_level_of_labels_must_be_known_and_needs_a_head(folder, load):
    with pytest.raises(ValueError, match=r"label_level='word' must be one of sequence, token"):
        load(folder, num_labels=2, label_level="word")
    with pytest.raises(ValueError, match=r"label_level='token' needs num_labels, the number of"):
        load(folder, label_level="token")
    with pytest.raises(ValueError, match=r"num_labels=0 must be in 1..65536"):
        load(folder, num_labels=0, label_level="token")


@pytest.mark.parametrize("dtype", ["banana", "nn", "", 16])
def test_a_type_must_be_one_of_torch(folder, dtype):
    with pytest.raises(ValueError, match="must be a torch dtype"):
        load_base_model(folder, dtype=dtype)


# Nothing there


@pytest.mark.parametrize("load", [load_base_model, load_tokenizer])
@pytest.mark.parametrize("source", ["./nowhere", "/no/where", "~/no/where", Path("nowhere")])
def test_a_missing_folder_is_one_sentence(load, source):
    assert_raises_one_sentence(FileNotFoundError, "no model in", call=lambda: load(source))


@pytest.mark.parametrize("load", [load_base_model, load_tokenizer])
def test_a_folder_without_a_model_is_one_sentence(load, tmp_path):
    for source in (tmp_path, str(tmp_path)):
        assert_raises_one_sentence(
            FileNotFoundError, "config.json", call=lambda source=source: load(source), at=tmp_path
        )


def test_a_file_is_not_a_folder(folder):
    source = folder / "model.safetensors"
    assert_raises_one_sentence(FileNotFoundError, call=lambda: load_base_model(source), at=source)


def test_an_id_without_a_network_is_one_sentence():
    profile = replace(current_profile(), model="nobody/nothing", revision="0" * 40)
    for source in ("nobody/nothing", profile):
        assert_raises_one_sentence(
            ConnectionError,
            "nobody/nothing",
            "HF_HUB_OFFLINE",
            call=lambda source=source: load_base_model(source),
        )


# The embedded model's checksums


@pytest.mark.parametrize("load", [load_base_model, load_tokenizer])
def test_damaged_embedded_weights_are_never_loaded(embedded, load):
    weights = embedded / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert_raises_one_sentence(ValueError, "checksum", "git checkout", call=load, at=weights)


@given(data=st.data())
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
def test_one_changed_bit_anywhere_is_noticed(folder, data):
    verify_checksums(folder)
    name = data.draw(st.sampled_from(["config.json", "model.safetensors", "tokenizer.json"]))
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    original = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"does not match its checksum"):
            verify_checksums(folder)
    finally:
        (folder / name).write_bytes(original)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "checksums.json"])
def test_a_missing_file_of_the_embedded_model_is_one_sentence(embedded, name):
    (embedded / name).unlink()
    assert_raises_one_sentence(FileNotFoundError, "fetch the course again", call=load_base_model)


def test_the_recorded_checksums_cover_every_file_that_is_loaded(untouched_folder):
    recorded = json.loads((untouched_folder / "checksums.json").read_text())
    assert set(recorded) == {file.name for file in untouched_folder.iterdir()} - {"checksums.json"}


def test_an_embedded_model_that_was_never_built_says_how(embedded):
    shutil.rmtree(embedded)
    assert_raises_one_sentence(
        FileNotFoundError,
        "python -m course_utils.models.pretrain",
        call=load_base_model,
        at=embedded,
    )


@pytest.mark.parametrize("listing", ["", "{", "[]", "null", "{}", '{"config.json": "0"}', "\x00"])
def test_a_damaged_list_of_checksums_lets_nothing_pass(embedded, listing):
    path = embedded / "checksums.json"
    path.write_text(listing)
    assert_raises_one_sentence(ValueError, "damaged", call=load_base_model, at=path)


# Damaged folders


def cut(content: bytes) -> bytes:
    return content[:-1000]


def empty(content: bytes) -> bytes:
    return b""


def replace_by_pointer(content: bytes) -> bytes:
    """Return what a clone without git-lfs leaves in place of a large file."""
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def break_header(content: bytes) -> bytes:
    return content[:8] + b"!" * 100 + content[108:]


@pytest.mark.parametrize("damage", [cut, empty, replace_by_pointer, break_header])
def test_damaged_weights_are_one_sentence(folder, damage):
    weights = folder / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    assert_raises_one_sentence(
        ValueError, "damaged", call=lambda: load_base_model(folder), at=folder
    )


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 3}, {"hidden_size": 128}, {"vocab_size": 400}]
)
@pytest.mark.parametrize("num_labels", [None, 2])
def test_weights_that_do_not_fit_are_never_filled_in_at_random(folder, changes, num_labels):
    change_config(folder, **changes)
    assert_raises_one_sentence(
        ValueError,
        "do not fit",
        "model.",
        call=lambda: load_base_model(folder, num_labels=num_labels),
        at=folder,
    )


@pytest.mark.parametrize(
    "config", ["", "{", "[]", '{"model_type": "gizmo"}', '{"model_type": "vit"}', "{}"]
)
def test_a_useless_config_is_one_sentence(folder, config):
    (folder / "config.json").write_text(config)
    assert_raises_one_sentence(
        ValueError, "cannot be loaded", call=lambda: load_base_model(folder), at=folder
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_one_sentence(folder, name):
    (folder / name).write_text("{")
    assert_raises_one_sentence(
        ValueError, "cannot be loaded", call=lambda: load_tokenizer(folder), at=folder
    )


def test_a_missing_tokenizer_is_one_sentence(folder):
    (folder / "tokenizer.json").unlink()
    assert_raises_one_sentence(
        FileNotFoundError, "tokenizer.json", call=lambda: load_tokenizer(folder), at=folder
    )


def test_missing_weights_are_one_sentence(folder):
    (folder / "model.safetensors").unlink()
    assert_raises_one_sentence(
        FileNotFoundError, "model.safetensors", call=lambda: load_base_model(folder), at=folder
    )


def test_weights_that_may_not_be_read_say_so(folder, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "model.safetensors"))

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
    assert_raises_one_sentence(
        PermissionError, "Permission denied", call=lambda: load_base_model(folder), at=folder
    )


# What is never run


def test_pickled_weights_are_never_unpickled(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    write_hostile_pickle(folder / "pytorch_model.bin", touches=tmp_path / "ran")
    assert_raises_one_sentence(
        FileNotFoundError, "pytorch_model.bin", call=lambda: load_base_model(folder), at=folder
    )
    assert not (tmp_path / "ran").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "ran").exists()  # the trap was set


@pytest.mark.parametrize("model_type", ["gizmo", "llama"])
def test_code_in_a_folder_never_runs(folder, tmp_path, model_type):
    add_own_code(folder, model_type=model_type, touches=tmp_path / "ran")
    if model_type == "llama":
        assert type(load_base_model(folder)).__module__.startswith("transformers.models.llama")
    else:
        assert_raises_one_sentence(
            ValueError, "its own code", call=lambda: load_base_model(folder), at=folder
        )
    load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_is_not_taken_for_a_base_model(folder):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "nobody/nothing", "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    assert_raises_one_sentence(
        ValueError, "adapter", "base model", call=lambda: load_base_model(folder), at=folder
    )


# Files that disagree with their configuration


def test_weights_without_a_place_are_refused(folder):
    change_config(folder, num_hidden_layers=1)
    for num_labels in (None, 2):
        assert_raises_one_sentence(
            ValueError,
            "do not fit its config.json",
            "have no place in the model, such as model.layers.1.",
            call=lambda num_labels=num_labels: load_base_model(folder, num_labels=num_labels),
            at=folder,
        )
    change_config(folder, num_hidden_layers=2)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert_raises_one_sentence(
        ValueError, "q_proj.bias", call=lambda: load_base_model(folder), at=folder
    )


def test_what_belongs_to_another_head_is_left_out(folder, tokens):
    expected = load_base_model(folder)(tokens).logits
    classifier = load_base_model(folder, num_labels=3)
    classifier.save_pretrained(folder)
    trunk = load_base_model(folder, num_labels=2).model.state_dict()
    assert all(
        torch.equal(trunk[key], value) for key, value in classifier.model.state_dict().items()
    )
    assert torch.equal(load_base_model(folder)(tokens).logits, expected)  # tied, so nothing is lost
    classifier.model.save_pretrained(folder)  # the trunk alone, under other names
    assert torch.equal(load_base_model(folder)(tokens).logits, expected)
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"have no place in the model, such as layers\.1\."):
        load_base_model(folder)


def test_berts_language_model_goes_without_the_pooler_of_its_file(tmp_path):
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, is_decoder=True
    )
    BertForPreTraining(config).save_pretrained(tmp_path)
    assert load_base_model(tmp_path).bert.pooler is None


@pytest.mark.parametrize("load", [load_base_model, build_random_model])
def test_a_padding_token_of_minus_one_is_none(folder, load, tokens):
    change_config(folder, pad_token_id=-1)
    model = load(folder)
    assert model.config.pad_token_id is None
    assert model.get_input_embeddings().padding_idx is None
    assert load(folder, num_labels=2).config.pad_token_id == load_tokenizer(folder).pad_token_id
    assert model(tokens).logits.isfinite().all()


@pytest.mark.parametrize("load", [load_base_model, build_random_model])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token_id": -2}, "pad_token_id=-2 must be in 0..319"),
        ({"pad_token_id": 320}, "pad_token_id=320 must be in 0..319"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 must be in 1..1024"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be in 1..1024"),
        ({"hidden_size": 2**40, "head_dim": 1}, "hidden_size=1099511627776 must be in 1..65536"),
        ({"vocab_size": -5}, "vocab_size=-5 must be in 1..4194304"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_act": "nope"}, "nope"),
    ],
)
def test_sizes_beyond_reason_are_refused_before_anything_is_built(folder, load, changes, message):
    change_config(folder, **changes)
    assert_raises_one_sentence(ValueError, message, call=lambda: load(folder), at=folder)


def test_several_end_tokens_are_kept(folder):
    change_config(folder, eos_token_id=[1, 2])
    assert load_base_model(folder).config.eos_token_id == [1, 2]


def test_a_padding_token_beyond_the_models_vocabulary_is_refused(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<{k}>" for k in range(100)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert_raises_one_sentence(
        ValueError,
        "pads with token 359, and the model's vocabulary ends at 319",
        call=lambda: load_base_model(folder, num_labels=2),
        at=folder,
    )


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff", "[]"])
def test_a_damaged_file_is_named(folder, name, text):
    (folder / name).write_text(text, encoding="latin-1")
    load = load_tokenizer if name.startswith("tokenizer") else load_base_model
    assert_raises_one_sentence(
        ValueError,
        "cannot be loaded",
        f"its {name} is damaged",
        call=lambda: load(folder),
        at=folder,
    )
