import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from course_utils.memory import architecture_of
from course_utils.methods import apply, count_parameters
from course_utils.methods.full import FrozenFineTuning, FullFineTuning
from course_utils.models import load_base_model
from course_utils.models.structure import norm_layers, transformer_blocks
from tests.training.runs import tiny_llama


def qwen3() -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            tie_word_embeddings=True,
        )
    )


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=2, n_positions=64)
    )


MODELS = {"llama": tiny_llama, "qwen3": qwen3, "gpt2": gpt2}
BLOCK = {"llama": "model.layers.1.", "qwen3": "model.layers.2.", "gpt2": "transformer.h.2."}
FINAL_NORM = {"llama": "model.norm.", "qwen3": "model.norm.", "gpt2": "transformer.ln_f."}


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_alone(name: str):
    model = apply(MODELS[name](), FrozenFineTuning(last_n_layers=1, train_head=False))
    assert trained(model) == {
        n for n, _ in model.named_parameters() if n.startswith((BLOCK[name], FINAL_NORM[name]))
    }


@pytest.mark.parametrize("name", MODELS)
def test_norms_alone(name: str):
    model = apply(MODELS[name](), FrozenFineTuning(train_norms=True, train_head=False))
    names = trained(model)
    assert names
    assert all("norm" in n or "ln_" in n for n in names)
    assert len(norm_layers(model)) >= 2 * len(transformer_blocks(model)) + 1


@pytest.mark.parametrize("name", MODELS)
def test_every_method_is_a_no_op_until_trained(name: str):
    ids = torch.tensor([[1, 2, 3]])
    for method in (FullFineTuning(), FrozenFineTuning(), FrozenFineTuning(last_n_layers=2)):
        model = MODELS[name]().eval()
        with torch.no_grad():
            before = model(input_ids=ids).logits
            after = apply(model, method)(input_ids=ids).logits
        assert torch.equal(before, after)


def test_full_trains_everything():
    model = apply(tiny_llama().requires_grad_(False), FullFineTuning())
    count = count_parameters(model)
    assert count.trainable == count.total == sum(p.numel() for p in model.parameters())
    assert count.share == 1


def test_a_tied_head_is_untied_so_that_the_embedding_stays():
    model = apply(qwen3(), FrozenFineTuning())
    assert trained(model) == {"lm_head.weight"}
    before = model.get_input_embeddings().weight.detach().clone()
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert not torch.equal(model.lm_head.weight, before)


def test_a_classifier_s_head_is_its_score_layer():
    model = load_base_model("embedded", num_labels=3)
    assert trained(apply(model, FrozenFineTuning())) == {"score.weight"}


def test_applying_again_decides_anew():
    model = apply(tiny_llama(), FullFineTuning())
    apply(model, FrozenFineTuning(last_n_layers=1, train_head=False))
    assert "model.embed_tokens.weight" not in trained(model)


@pytest.mark.parametrize(
    "method",
    [
        FullFineTuning(),
        FrozenFineTuning(),
        FrozenFineTuning(last_n_layers=2),
        FrozenFineTuning(train_norms=True, train_head=False),
    ],
)
def test_the_footprint_is_what_apply_trains(method):
    model = load_base_model("embedded")
    architecture = architecture_of(model)
    model = apply(model, method)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(method.footprint(architecture).sizes(architecture)) == trainable


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="last_n_layers=-1 must be at least 0"):
        FrozenFineTuning(last_n_layers=-1)
    with pytest.raises(ValueError, match="nothing to train"):
        FrozenFineTuning(train_head=False)
    with pytest.raises(ValueError, match="last_n_layers=9 must be at most 2"):
        apply(tiny_llama(), FrozenFineTuning(last_n_layers=9))
    with pytest.raises(ValueError, match="'lora' is not a method's configuration"):
        apply(tiny_llama(), "lora")


def test_shared_parameters_count_once():
    tied = qwen3()
    assert count_parameters(tied).total == sum(p.numel() for p in tied.parameters())
    assert str(count_parameters(apply(tied, FullFineTuning()))).endswith(
        "parameters train (100.00%)"
    )
