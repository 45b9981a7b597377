"""Soft prompts against PEFT: same numbers out, files both ways, and where the two part."""

import json
import warnings
from dataclasses import fields
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
)

from course_utils.methods import AdapterError, apply, load_adapter, save_adapter
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig, PTuningV2Config
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.storage.folder import CONFIG_FILE
from tests.methods.adapters import IDS, SHAPE, build, logits

# PEFT says so of the positions that transformers' own generation gives it.
pytestmark = pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")

N = 3
METHODS = {
    "prompt": (
        PromptTuningConfig(num_virtual_tokens=N, init="random"),
        lambda **task: peft.PromptTuningConfig(num_virtual_tokens=N, **task),
    ),
    "p-tuning, mlp": (
        PTuningConfig(num_virtual_tokens=N, hidden_size=13),
        lambda **task: peft.PromptEncoderConfig(
            num_virtual_tokens=N, encoder_hidden_size=13, **task
        ),
    ),
    "p-tuning, lstm": (
        PTuningConfig(num_virtual_tokens=N, encoder="lstm", num_layers=2),
        lambda **task: peft.PromptEncoderConfig(
            num_virtual_tokens=N, encoder_reparameterization_type="LSTM", **task
        ),
    ),
    "prefix": (
        PrefixTuningConfig(num_virtual_tokens=N),
        lambda **task: peft.PrefixTuningConfig(num_virtual_tokens=N, **task),
    ),
    "prefix, projected": (
        PrefixTuningConfig(num_virtual_tokens=N, projection=True, hidden_size=7),
        lambda **task: peft.PrefixTuningConfig(
            num_virtual_tokens=N, prefix_projection=True, encoder_hidden_size=7, **task
        ),
    ),
}
NAMES = ("llama", "qwen3", "gpt2")
HEADS = {
    "SEQ_CLS": lambda: LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=3)),
    "TOKEN_CLS": lambda: LlamaForTokenClassification(LlamaConfig(**SHAPE, num_labels=3)),
    "SEQ_CLS, gpt2": lambda: GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=61,
            n_embd=36,
            n_layer=2,
            n_head=3,
            n_positions=32,
            num_labels=3,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
    ),
}
GREEDY = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
OFF_TEXT = IDS.clone()
OFF_TEXT[:, 0] = -100
LEFT = torch.ones_like(IDS)
LEFT[0, :4] = LEFT[1, :2] = 0


def classifier(task: str) -> nn.Module:
    torch.manual_seed(0)
    return HEADS[task]().eval()


def prompt_parameters(model: PeftModel) -> list[nn.Parameter]:
    return list(model.prompt_encoder["default"].parameters())


def same_start(kind: str, name: str) -> tuple[nn.Module, PeftModel]:
    """A model with our method and one with PEFT's, with the same numbers."""
    torch.manual_seed(3)
    method, theirs = METHODS[kind]
    ours = apply(build(name), method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(build(name), theirs(task_type="CAUSAL_LM")).eval()
    places = prompt_parameters(theirs)
    assert [p.shape for p in ours.soft_prompt.parameters()] == [p.shape for p in places]
    with torch.no_grad():
        for tensor, place in zip(ours.soft_prompt.parameters(), places, strict=True):
            place.copy_(tensor)
    return ours, theirs


def close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).norm() <= 1e-5 * theirs.norm())


def text_logits(model: nn.Module, ids: Tensor = IDS, **inputs: Tensor) -> Tensor:
    """The logits at the places of the text; PEFT returns the prompt's as well."""
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits[:, -ids.shape[1] :]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", METHODS)
def test_forward_gradients_and_ten_steps(kind: str, name: str):
    ours, theirs = same_start(kind, name)
    right = LEFT.flip(1)
    assert close(text_logits(ours), text_logits(theirs))
    outputs = [text_logits(m, attention_mask=right)[right.bool()] for m in (ours, theirs)]
    assert close(*outputs)

    pairs = list(zip(ours.soft_prompt.parameters(), prompt_parameters(theirs), strict=True))
    losses = [model(input_ids=IDS, labels=OFF_TEXT).loss for model in (ours, theirs)]
    assert close(*losses)
    for loss in losses:
        loss.backward()
    for mine, other in pairs:
        assert mine.grad.norm() > 0
        assert close(mine.grad, other.grad)

    for model, parameters in zip((ours, theirs), zip(*pairs, strict=True), strict=True):
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        for _ in range(10):
            optimizer.zero_grad()
            model(input_ids=IDS, labels=OFF_TEXT).loss.backward()
            optimizer.step()
    for mine, other in pairs:
        assert close(mine, other)


def test_peft_also_predicts_the_first_token_from_the_last_virtual_one():
    ours, theirs = same_start("prompt", "llama")
    with torch.no_grad():
        mine, other = ours(IDS, labels=IDS).loss, theirs(IDS, labels=IDS).loss
        from_the_prompt = nn.functional.cross_entropy(
            theirs(IDS).logits[:, N - 1], IDS[:, 0], reduction="sum"
        )
    n_rows, length = IDS.shape
    together = (mine * n_rows * (length - 1) + from_the_prompt) / (n_rows * length)
    assert close(together, other)
    assert not torch.allclose(mine, other, rtol=1e-3)
    # A prefix is no token of the text, and nothing is predicted from it.
    ours, theirs = same_start("prefix", "llama")
    assert close(ours(IDS, labels=IDS).loss, theirs(IDS, labels=IDS).loss)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", METHODS)
def test_what_ours_saves_loads_in_peft_and_back(kind: str, name: str, tmp_path: Path):
    ours, _ = same_start(kind, name)
    theirs = PeftModel.from_pretrained(build(name), save_adapter(ours, tmp_path / "ours"))
    assert close(text_logits(ours), text_logits(theirs))
    theirs.save_pretrained(tmp_path / "theirs")
    again, direct = (load_adapter(build(name), tmp_path / by) for by in ("theirs", "ours"))
    assert torch.equal(logits(again), logits(direct))
    assert close(logits(again), logits(ours))


@pytest.mark.parametrize("kind", METHODS)
def test_what_peft_has_trained_loads_here(kind: str, tmp_path: Path):
    _, theirs = same_start(kind, "qwen3")
    optimizer = torch.optim.SGD(prompt_parameters(theirs), lr=1.0)
    theirs.train()(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    theirs.eval().save_pretrained(tmp_path)
    ours = load_adapter(build("qwen3"), tmp_path)
    assert close(text_logits(ours), text_logits(theirs))


@pytest.mark.parametrize("kind", ["prompt", "p-tuning, mlp", "prefix"])
def test_no_option_of_pefts_is_taken_unseen(kind: str, tmp_path: Path):
    _, theirs = same_start(kind, "llama")
    theirs.save_pretrained(tmp_path)
    text, model = (tmp_path / CONFIG_FILE).read_text(), build()
    how_it_was_made = {"auto_mapping", "tokenizer_kwargs"}
    names = {field.name for field in fields(theirs.peft_config["default"])} - how_it_was_made
    for name in [*sorted(names), "an_option_of_tomorrow"]:
        (tmp_path / CONFIG_FILE).write_text(json.dumps(json.loads(text) | {name: {"a": 2}}))
        with pytest.raises(AdapterError, match=name if name != "peft_type" else "type {'a': 2}"):
            load_adapter(model, tmp_path)
    (tmp_path / CONFIG_FILE).write_text(
        json.dumps(json.loads(text) | {"num_transformer_submodules": 2})
    )
    with pytest.raises(AdapterError, match="uses num_transformer_submodules=2, which is not read"):
        load_adapter(model, tmp_path)


def test_p_tuning_v2_is_pefts_prefix_tuning(tmp_path: Path):
    ours = apply(build("qwen3"), PTuningV2Config(num_virtual_tokens=N))
    theirs = PeftModel.from_pretrained(build("qwen3"), save_adapter(ours, tmp_path))
    assert theirs.peft_config["default"].peft_type == "PREFIX_TUNING"
    assert close(text_logits(ours), text_logits(theirs))


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("kind", ["prompt", "p-tuning, mlp", "prefix"])
def test_a_classifier_and_its_head_travel_both_ways(kind: str, task: str, tmp_path: Path):
    torch.manual_seed(3)
    ours = apply(classifier(task), METHODS[kind][0])
    with torch.no_grad():
        for parameter in ours.score.parameters():
            parameter.mul_(-2)
    # Without its input ids PEFT's classifier of texts reads the last place: those rows are full.
    mask = LEFT.flip(1) if kind == "prefix" or task == "TOKEN_CLS" else torch.ones_like(IDS)

    def outputs(model: nn.Module) -> Tensor:
        result = model(input_ids=IDS * mask, attention_mask=mask).logits.detach()
        return result[:, -IDS.shape[1] :][mask.bool()] if task == "TOKEN_CLS" else result

    theirs = PeftModel.from_pretrained(classifier(task), save_adapter(ours, tmp_path / "ours"))
    assert close(outputs(ours), outputs(theirs))
    assert theirs.peft_config["default"].task_type == task.partition(",")[0]
    theirs.save_pretrained(tmp_path / "theirs")
    again, direct = (load_adapter(classifier(task), tmp_path / by) for by in ("theirs", "ours"))
    assert torch.equal(outputs(again), outputs(direct))
    assert close(outputs(again), outputs(ours))


def test_where_peft_lets_a_classifier_read_a_virtual_token_no_file_travels(tmp_path: Path):
    def bert() -> BertForSequenceClassification:
        torch.manual_seed(0)
        sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
        config = BertConfig(vocab_size=61, num_attention_heads=2, num_labels=3, **sizes)
        return BertForSequenceClassification(config).eval()

    for kind, file in (("prompt", "prompt_tuning"), ("p-tuning, mlp", "p_tuning")):
        method, theirs = METHODS[kind]
        ours = apply(bert(), method)
        folder = save_adapter(ours, tmp_path / file)
        config = json.loads((folder / CONFIG_FILE).read_text())
        assert config["course_utils_method"] == file
        again = load_adapter(bert(), folder)
        assert close(logits(again), logits(ours))
        assert again.fine_tuning_method == method
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            get_peft_model(bert(), theirs(task_type="SEQ_CLS")).save_pretrained(tmp_path / kind)
        with pytest.raises(AdapterError, match="where BertForSequenceClassification reads a text"):
            load_adapter(bert(), tmp_path / kind)
    prefixed = apply(bert(), METHODS["prefix"][0])
    theirs = PeftModel.from_pretrained(bert(), save_adapter(prefixed, tmp_path / "prefix"))
    assert close(logits(prefixed), logits(theirs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", METHODS)
def test_a_batch_of_equal_lengths_is_continued_alike(kind: str, name: str):
    ours, theirs = same_start(kind, name)
    full = torch.ones_like(IDS)
    answers = [m.generate(input_ids=IDS, attention_mask=full, **GREEDY) for m in (ours, theirs)]
    assert torch.equal(*answers)
    assert not torch.equal(answers[0], build(name).generate(IDS, attention_mask=full, **GREEDY))


def first_step(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """The logits of the first new token, as ``generate`` sees them."""
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        return_dict_in_generate=True,
        output_logits=True,
        **GREEDY | {"max_new_tokens": 1},
    )
    return output.logits[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", METHODS)
def test_padding_on_the_left_makes_a_gap_behind_pefts_virtual_tokens_only(kind: str, name: str):
    ours, theirs = same_start(kind, name)
    batch, pefts = first_step(ours, IDS, LEFT), first_step(theirs, IDS, LEFT)
    alone = torch.cat(
        [
            first_step(ours, ids[None, m.bool()], m[None, m.bool()])
            for ids, m in zip(IDS, LEFT, strict=True)
        ]
    )
    assert torch.allclose(batch, alone, atol=1e-6)
    if kind.startswith("prefix"):
        assert torch.allclose(pefts, alone, atol=1e-6)
        return
    # The third row has no padding. In the others PEFT counts the padding between the prompt and
    # the text as positions, so what a row gives depends on its neighbours in the batch.
    assert torch.allclose(pefts[2], alone[2], atol=1e-6)
    assert (pefts - alone)[:2].abs().amax(dim=1).min() > 5e-4, (
        f"PEFT {peft.__version__} leaves no gap any more: expect equality, here and in FACTS"
    )
