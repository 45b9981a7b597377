import itertools

import pytest
import torch
from matplotlib.pyplot import close
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from course_utils.methods import adapter_disabled, apply, remove
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.show.widgets import AttentionMap, attention_maps, prefix_explorer
from course_utils.show.widgets.prefix_explorer import MEAN
from tests.show.widgets.bundles import check_bundle
from tests.tiny_models import write_tiny_model

TEXTS = ["One $hat$.", "a\nb", "x" * 60]
METHODS = {
    "prefix": PrefixTuningConfig(num_virtual_tokens=4),
    "prompt": PromptTuningConfig(num_virtual_tokens=4),
    "long prefix": PrefixTuningConfig(num_virtual_tokens=40),
}


@pytest.fixture(scope="module")
def tiny_tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("tiny")))


def soft(name="prefix"):
    """Return a tiny model of three layers and grouped heads whose virtual tokens are no zeros."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        max_position_embeddings=128,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=256,
    )
    model = apply(LlamaForCausalLM(config), METHODS[name])
    with torch.no_grad():
        for parameter in model.soft_prompt.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", METHODS)
def test_a_row_is_a_distribution_over_virtual_places_and_earlier_tokens(name, tiny_tokenizer):
    n = METHODS[name].num_virtual_tokens
    for one in attention_maps(soft(name), tiny_tokenizer, TEXTS):
        seq = len(one.tokens)
        assert one.weights.shape == (3, 4, seq, n + seq)
        assert one.n_virtual == n
        assert torch.allclose(one.weights.sum(-1), torch.ones(3, 4, seq), atol=1e-5)
        assert torch.equal(one.weights.tril(n), one.weights)
        assert (one.share(2) > 0).all()
        # The rows are the tokens' own: each sees itself last.
        assert (one.weights.diagonal(n, -2, -1) > 0).all()


def test_a_prefix_s_share_is_the_softmax_with_its_keys(tiny_tokenizer):
    """Layer 0, from queries and keys by hand: grouped heads, positions after the prefix."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    model = soft().eval()
    (one,) = attention_maps(model, tiny_tokenizer, ["a cat"])
    ids = tiny_tokenizer("a cat", return_tensors="pt")["input_ids"]
    layer, seq = model.model.layers[0], ids.shape[1]
    with torch.no_grad():
        h = layer.input_layernorm(model.model.embed_tokens(ids))
        q = layer.self_attn.q_proj(h).view(1, seq, 4, 8).transpose(1, 2)
        k = layer.self_attn.k_proj(h).view(1, seq, 2, 8).transpose(1, 2)
        cos_sin = model.model.rotary_emb(h, torch.arange(4, 4 + seq)[None])
        q, k = apply_rotary_pos_emb(q, k, *cos_sin)
        k = torch.cat([model.soft_prompt.keys_and_values()[0, 0][None], k], dim=2)
        scores = q @ k.repeat_interleave(2, dim=1).transpose(2, 3) / 8**0.5
        seen = torch.ones(seq, 4 + seq, dtype=torch.bool).tril(4)
        expected = scores.masked_fill(~seen, float("-inf")).softmax(-1)[0]
    assert torch.allclose(one.weights[0], expected, atol=1e-5)
    for head in range(4):
        assert torch.allclose(one.share(0, head), expected[head, :, :4].sum(-1), atol=1e-5)
    assert torch.allclose(one.share(0), expected[:, :, :4].sum(-1).mean(0), atol=1e-5)


def test_equal_attention_is_n_of_all_that_a_token_sees():
    one = AttentionMap(
        "ab", ["a", "b"], torch.tensor([[[[0.2, 0.3, 0.5, 0], [0.1, 0.1, 0.4, 0.4]]]])
    )
    assert one.n_virtual == 2
    assert one.share(0).tolist() == pytest.approx([0.5, 0.2])
    assert one.equal_share().tolist() == pytest.approx([2 / 3, 2 / 4])


def test_the_model_is_left_as_it_was(tiny_tokenizer):
    model = soft().train()
    assert model.config._attn_implementation == "sdpa"
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    attention_maps(model, tiny_tokenizer, TEXTS)
    assert model.config._attn_implementation == "sdpa"
    assert model.training
    assert torch.equal(model(ids).logits, before)
    with pytest.raises(ValueError, match="has no tokens"):
        attention_maps(model, tiny_tokenizer, [""])
    assert model.config._attn_implementation == "sdpa"


def test_what_cannot_be_shown_is_refused(tiny_tokenizer):
    model = soft()
    with pytest.raises(ValueError, match="texts is empty"):
        prefix_explorer(model, tiny_tokenizer, [])
    for layer in (0, 4):
        with pytest.raises(ValueError, match=f"layer={layer} must be in 1..3"):
            prefix_explorer(model, tiny_tokenizer, TEXTS, layer=layer)
    with adapter_disabled(model), pytest.raises(ValueError, match="switched off"):
        attention_maps(model, tiny_tokenizer, TEXTS)
    remove(model)
    with pytest.raises(ValueError, match="LlamaForCausalLM carries no soft prompt"):
        prefix_explorer(model, tiny_tokenizer, TEXTS)


def test_long_texts_are_cut_and_begin_as_in_training(model, tokenizer):
    carrier = apply(model, METHODS["prefix"])
    try:
        one, cut = (
            attention_maps(carrier, tokenizer, ["the miller " * 40], max_length_tokens=limit)[0]
            for limit in (24, 5)
        )
        assert one.weights.shape[0] == model.config.num_hidden_layers
        assert len(one.tokens) == 24
        assert cut.tokens == one.tokens[:5]
        assert one.tokens[0] == tokenizer.bos_token
        # Later tokens are not seen: a cut text has the map of its beginning.
        assert torch.allclose(cut.weights, one.weights[:, :, :5, :9], atol=1e-5)
    finally:
        remove(model)


def test_maps_are_computed_once_for_all_choices(tiny_tokenizer, monkeypatch):
    model, calls = soft(), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *given, **more: calls.append(1) or forward(*given, **more)
    )
    explorer = prefix_explorer(model, tiny_tokenizer, TEXTS)
    assert len(calls) == len(TEXTS)
    explorer.text.value, explorer.layer.value, explorer.head.value = 2, 1, 3
    assert len(calls) == len(TEXTS)


def test_controls_list_what_the_model_has_and_words_follow_them(tiny_tokenizer):
    explorer = prefix_explorer(soft(), tiny_tokenizer, TEXTS, layer=3)
    assert [label for label, _ in explorer.layer.options] == ["1 of 3", "2 of 3", "3 of 3"]
    assert [label for label, _ in explorer.head.options] == ["mean of all", "1", "2", "3", "4"]
    assert next(label for label, _ in explorer.text.options) == "1: One $hat$."
    seen = {repr(explorer), explorer.picture.value.split("alt=")[0]}
    for control, value in (("text", 1), ("layer", 0), ("head", 2)):
        explorer.controls[control].value = value
        words = repr(explorer)
        share = explorer.maps[explorer.text.value].share(explorer.layer.value, explorer.head.value)
        assert f"give {share.mean():.1%} of their attention to the 4 virtual places" in words
        most = share.argmax().item()
        assert f"(token {most + 1}, {share[most]:.1%}), least" in words
        picture = explorer.picture.value.split("alt=")[0]
        assert not {words, picture} & seen
        seen |= {words, picture}
    assert repr(explorer).startswith("layer 1 of 3, head 3: the 3 tokens")
    explorer.head.value = MEAN
    assert repr(explorer).startswith("layer 1 of 3, mean of 4 heads: the 3 tokens")


@pytest.mark.parametrize(("name", "text"), [("prefix", 0), ("long prefix", 1), ("prompt", 2)])
def test_the_picture_is_the_map_with_the_virtual_places_marked_off(name, text, tiny_tokenizer):
    explorer = prefix_explorer(soft(name), tiny_tokenizer, TEXTS, layer=2)
    explorer.text.value, explorer.head.value = text, 1
    one, ax = explorer.chosen, explorer.draw()
    n, seq = one.n_virtual, len(one.tokens)
    (mesh,) = (each for each in ax.collections if hasattr(each, "get_coordinates"))
    drawn = torch.as_tensor(mesh.get_array().filled(0)).view(seq, n + seq)
    assert torch.allclose(drawn, one.of(1, 1))
    # The line stands between the last virtual place and the first token.
    (line,) = ax.lines
    assert line.get_xdata()[0] == pytest.approx(mesh.get_coordinates()[0, n, 0])
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels[-seq:] == one.tokens
    assert labels[:-seq] == [f"p{k}" for k in range(1, n + 1, 1 if n == 4 else 4)]
    shares = next(each for each in ax.figure.axes if each.patches)
    assert [bar.get_width() for bar in shares.patches] == pytest.approx(one.share(1, 1).tolist())
    assert shares.get_ylim() == ax.get_ylim() == (seq, 0)
    mean = f"{one.share(1, 1).mean():.0%}"
    assert ax.figure.get_suptitle() == (
        f"{mean} of the attention goes to the {n} virtual places\nlayer 2 of 3, head 2"
    )
    close(ax.figure)


@pytest.mark.parametrize("name", METHODS)
def test_labels_do_not_hide_one_another(name, tiny_tokenizer):
    explorer = prefix_explorer(soft(name), tiny_tokenizer, TEXTS)
    explorer.text.value = 2
    ax = explorer.draw()
    ax.figure.draw_without_rendering()
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    close(ax.figure)


def test_one_output_holds_widget_picture_and_text(tiny_tokenizer):
    check_bundle(prefix_explorer(soft(), tiny_tokenizer, TEXTS))
