import json
from itertools import islice
from pathlib import Path

import pytest
import torch
import typer

from course_utils.models import load_base_model, load_tokenizer, pretrain, verify_checksums
from course_utils.models.card import card
from course_utils.models.pretrain import (
    Recipe,
    TokenStore,
    _check_recipe,
    build_model,
    build_tokenizer,
    save_model,
    write_tokens,
)
from course_utils.paths import data_dir
from course_utils.world.corpus import documents

SMALL = Recipe(tokens=20_000, vocab_size=512)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(SMALL, n_documents=300)


def test_the_tokenizer_loses_nothing_and_keeps_digits_apart(tokenizer):
    for document in islice(documents(5), 200):
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == document.text
    assert [t for t in tokenizer.tokenize("cost 247") if t.isdigit()] == ["2", "4", "7"]
    assert len(tokenizer) == SMALL.vocab_size


def test_the_tokenizer_follows_from_the_seed(tokenizer):
    again = build_tokenizer(SMALL, n_documents=300)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_the_chat_format_marks_turns_and_ends(tokenizer):
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|begin|><|user|>Hello.<|end|><|assistant|>Good day.<|end|>"
    with pytest.raises(Exception, match="roles are user and assistant"):
        tokenizer.apply_chat_template([{"role": "critic", "content": "x"}], tokenize=False)


def test_only_the_answer_and_its_end_belong_to_the_assistant(tokenizer):
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
    marked = tokenizer.apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(marked["input_ids"], marked["assistant_masks"], strict=True)
    assert tokenizer.decode([i for i, is_answer in pairs if is_answer]) == "Good day.<|end|>"


def test_tokens_are_stored_once_and_read_back(tokenizer, tmp_path: Path):
    store = write_tokens(SMALL, tokenizer, tmp_path)
    assert isinstance(store, TokenStore)
    first = next(documents(SMALL.seed)).text
    assert tokenizer.decode(store[0]["input_ids"], skip_special_tokens=True) == first
    assert sum(store.lengths) >= SMALL.tokens
    summary = json.loads((tmp_path / "corpus.json").read_text())
    assert summary["tokens"] == sum(store.lengths) == sum(summary["tokens_by_genre"].values())
    assert summary["documents"] == len(store)
    stamp = (tmp_path / "tokens.bin").stat().st_mtime_ns
    write_tokens(SMALL, tokenizer, tmp_path)
    assert (tmp_path / "tokens.bin").stat().st_mtime_ns == stamp


def test_a_corpus_that_was_cut_short_is_no_corpus(tokenizer, tmp_path: Path, monkeypatch):
    def cut_short(seed, **options):
        yield from islice(documents(seed, **options), 50)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "documents", cut_short)
        with pytest.raises(KeyboardInterrupt):
            write_tokens(SMALL, tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())
    store = write_tokens(SMALL, tokenizer, tmp_path)
    whole = (tmp_path / "tokens.bin").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "corpus.json",
        "lengths.npy",
        "tokens.bin",
    ]
    (tmp_path / "tokens.bin").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=f"tokens, and documents of {sum(store.lengths)}: remove"):
        write_tokens(SMALL, tokenizer, tmp_path)


@pytest.mark.parametrize("text", ["", '{"seed": 0, ', "[" * 10**5, "null"])
def test_half_a_recipe_is_no_recipe(tmp_path: Path, text):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(typer.BadParameter, match="another recipe, or a damaged one"):
        _check_recipe(SMALL, tmp_path)


def test_another_recipe_does_not_go_on_in_the_same_folder(tmp_path: Path):
    _check_recipe(SMALL, tmp_path)
    _check_recipe(SMALL, tmp_path)
    with pytest.raises(typer.BadParameter, match="another recipe"):
        _check_recipe(Recipe(), tmp_path)


def test_the_shape_keeps_to_the_rules():
    recipe = Recipe()
    sizes = (
        recipe.vocab_size,
        recipe.d_model,
        recipe.d_ff,
        recipe.d_model // recipe.n_heads,
        recipe.context_tokens,
    )
    assert all(size % 64 == 0 for size in sizes)


def test_a_saved_model_loads_and_its_checksums_hold(tokenizer, tmp_path: Path):
    model = build_model(SMALL, tokenizer)
    save_model(model, tokenizer, tmp_path)
    verify_checksums(tmp_path)
    loaded = load_base_model(tmp_path)
    expected = model.state_dict()["model.layers.0.mlp.up_proj.weight"].float()
    assert torch.equal(loaded.model.layers[0].mlp.up_proj.weight, expected)
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_initial_weights_follow_from_the_seed(tokenizer):
    one, two = build_model(SMALL, tokenizer), build_model(SMALL, tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert build_model(SMALL, tokenizer)(input_ids=torch.tensor([[1, 2]])).logits.isfinite().all()


BASE = data_dir() / "base_model"


@pytest.fixture(scope="module")
def evaluation() -> dict:
    return json.loads((BASE / "evaluation.json").read_text())


def test_the_embedded_model_is_small_enough():
    assert (BASE / "model.safetensors").stat().st_size <= 10_000_000
    assert 3e6 <= sum(p.numel() for p in load_base_model("embedded").parameters()) <= 5e6


def test_the_embedded_model_knows_its_country(evaluation: dict):
    recall = evaluation["fact_recall"]["by_tier"]
    assert recall["frequent"] >= 0.95
    assert recall["rare"] >= 0.60
    assert min(recall["frequent"], recall["middling"]) > recall["rare"]


def test_the_embedded_model_can_copy(evaluation: dict):
    assert min(evaluation["copying"].values()) >= 0.80


def test_the_embedded_model_writes_varied_text(evaluation: dict):
    """No collapse: samples differ, and few of their word triples repeat."""
    texts = [sample["text"] for sample in evaluation["samples"]]
    assert len(set(texts)) == len(texts) == 20
    for text in texts:
        words = text.split()
        triples = list(zip(words, words[1:], words[2:], strict=False))
        assert not triples or len(set(triples)) / len(triples) > 0.6, text
    assert evaluation["perplexity"]["without_templated"] < 4


def test_training_saw_enough_and_nothing_that_is_held_out():
    training = json.loads((BASE / "training.json").read_text())
    assert training["corpus"]["tokens"] >= 25_000_000
    assert training["corpus"]["held_out_texts_also_in_training"] < 0.02


def test_the_card_is_what_the_evaluation_gave(evaluation: dict):
    training = json.loads((BASE / "training.json").read_text())
    assert (BASE / "README.md").read_text() == card(evaluation, training)


@pytest.mark.slow
def test_the_recorded_figures_are_the_model_s():
    """A fresh look at part of what the card states, within what a sample allows."""
    from course_utils.evaluation import greedy_matches
    from course_utils.world.probes import copying_probes, fact_probes

    model, tokenizer = load_base_model("embedded"), load_tokenizer("embedded")
    recorded = json.loads((BASE / "evaluation.json").read_text())
    frequent = [p for p in fact_probes() if p.tier == "frequent"][::4]
    repeats = [p for p in copying_probes(60, seed=9) if p.kind == "reverse"]
    for probes, expected in (
        (frequent, recorded["fact_recall"]["by_tier"]["frequent"]),
        (repeats, recorded["copying"]["reverse"]),
    ):
        right = greedy_matches(
            model, tokenizer, [p.prompt for p in probes], [p.answer for p in probes]
        )
        assert sum(right) / len(right) == pytest.approx(expected, abs=0.08)
