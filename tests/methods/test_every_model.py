"""Every method on every architecture: right, or refused by name. Never silently neither."""

import copy

import peft
import pytest
import torch
from torch import nn

from course_utils.data import pack_examples, pad_packed
from course_utils.memory import architecture_of
from course_utils.methods import apply, count_parameters, merge, remove
from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.full import FrozenFineTuning, FullFineTuning
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.lora_xs import LoRAXSConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.storage.fingerprint import base_fingerprint
from course_utils.methods.tiny_lora import TinyLoRAConfig
from course_utils.models.structure import (
    check_packing,
    classifier_heads,
    context_of,
    final_norms,
    norm_layers,
    output_layer,
    transformer_blocks,
)
from course_utils.quantization import quantize_model
from tests.methods.zoo import CLASSIFIERS, LANGUAGE_MODELS, T5, VOCABULARY, ZOO
from tests.methods.zoo import build_any as build
from tests.methods.zoo import first_output as logits

TEXT, N = (7, 30, 5, 51), 4
IDS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
TEXTS = torch.tensor(TEXT).expand(2, -1)
LAYERS = {
    "lora": LoRAConfig(rank=2),
    "dora": DoRAConfig(rank=2),
    "dylora": DyLoRAConfig(rank=2),
    "nola": NOLAConfig(rank=2, n_bases=4),
    "lora_xs": LoRAXSConfig(rank=2),
    "tiny_lora": TinyLoRAConfig(weight_tying=0.7),
    "bottleneck": BottleneckConfig(bottleneck_size=3),
}
PROMPTS = {
    "prompt": PromptTuningConfig(num_virtual_tokens=N, init="text", init_token_ids=TEXT),
    "p-tuning": PTuningConfig(num_virtual_tokens=N, encoder="lstm"),
    "prefix": PrefixTuningConfig(num_virtual_tokens=N),
}
# Models that read the texts' borders off their positions.
PACKING = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "gpt2", "gpt-neox")
HEADS = {
    "llama, texts": ["score"],
    "opt, texts": ["score"],
    "distilbert, texts": ["pre_classifier", "classifier"],
}
FINAL_NORM = {
    "gpt2": "transformer.ln_f",
    "opt": "model.decoder.final_layer_norm",
    "opt, texts": "model.decoder.final_layer_norm",
    "bloom": "transformer.ln_f",
    "falcon": "transformer.ln_f",
    "gpt-neox": "gpt_neox.final_layer_norm",
    "pre-norm roberta, texts": "roberta_prelayernorm.LayerNorm",
}
# BERT's kind normalises behind every sublayer, and so not once more at the end.
NO_FINAL_NORM = tuple(n for n in ZOO if n.startswith(("bert", "roberta", "electra", "distil")))
# Blocks of more than two parts, and models whose attention takes no past keys.
REFUSED = {
    "bottleneck": ("opt", "bert", "roberta", "pre-norm roberta", "electra"),
    "prefix": ("distilbert",),
}
every_model = pytest.mark.parametrize("name", ZOO)


def is_refused(kind: str, name: str) -> bool:
    return name.partition(",")[0] in REFUSED.get(kind, ())


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def gradients_reach(model: nn.Module) -> bool:
    model.train()(input_ids=IDS).logits.float().square().sum().backward()
    model.eval()
    return all(p.grad is not None and p.grad.isfinite().all() for p in trained(model))


def condition_of(model: nn.Module) -> tuple:
    """Return all that a question might change: random state, modes, drawn ranks, values."""
    layers = adapted_layers(model).values()
    return (
        torch.get_rng_state().tolist(),
        {name: module.training for name, module in model.named_modules()},
        [getattr(layer, "drawn_rank", None) for layer in layers],
        {name: value.sum().item() for name, value in model.state_dict().items()},
    )


@every_model
@pytest.mark.parametrize("kind", [*LAYERS, "qlora"])
def test_layers_start_as_the_base_train_merge_and_spare_the_head(kind: str, name: str):
    model = quantize_model(build(name)) if kind == "qlora" else build(name)
    base, output, method = logits(model, IDS), output_layer(model), LAYERS.get(kind, LoRAConfig())
    if is_refused(kind, name):
        with pytest.raises(ValueError, match=f"{type(model).__name__} has 3 parts"):
            apply(model, method)
        return
    apply(model, method)
    assert (logits(model, IDS) - base).abs().max() < 1e-6
    assert gradients_reach(model)
    head = {id(p) for h in classifier_heads(model) for p in model.get_submodule(h).parameters()}
    kept = {id(p) for layer in adapted_layers(model).values() for p in layer.base.parameters()}
    added = {id(p) for layer in adapted_layers(model).values() for p in layer.parameters()} - kept
    assert {id(p) for p in trained(model)} == added | head
    assert not (added | kept) & head
    assert output_layer(model) is output
    assert output is None or isinstance(output, nn.Linear)
    with torch.no_grad():
        for parameter in trained(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
    answer = logits(model, IDS)
    assert (answer - base).abs().max() > 1e-4
    if kind != "bottleneck":
        assert (logits(merge(model), IDS) - answer).abs().max() < 1e-5


@every_model
@pytest.mark.parametrize("kind", PROMPTS)
def test_virtual_tokens_move_the_logits_and_act_as_a_text(kind: str, name: str):
    model, is_classifier = build(name), name in CLASSIFIERS
    base, behind = logits(model, IDS), logits(model, torch.cat([TEXTS, IDS], dim=1))
    if is_refused(kind, name):
        with pytest.raises(ValueError, match=f"{type(model).__name__} takes no past keys"):
            apply(model, PROMPTS[kind])
        return
    if kind == "prefix" and not is_classifier:
        with torch.no_grad():
            layers = model(input_ids=TEXTS[:1], use_cache=True).past_key_values.layers
        pairs = torch.stack([torch.cat([layer.keys, layer.values]) for layer in layers])
    apply(model, PROMPTS[kind])
    if kind == "prefix" and not is_classifier:
        tokens = pairs.permute(3, 0, 1, 2, 4).reshape(N, -1)
        model.soft_prompt.encoder.weight.data = tokens.clone()
    prompted = logits(model, IDS)
    assert (prompted - base).abs().max() > 1e-3
    # A classifier of BERT's kind reads the text's first token, wherever that stands.
    if kind != "p-tuning" and (not is_classifier or (kind == "prompt" and "bert, tok" in name)):
        assert (prompted - behind[:, N:]).abs().max() < 1e-5
    mask = torch.ones_like(IDS)
    mask[0, -3:] = 0
    padded, alone = logits(model, IDS * mask, attention_mask=mask)[0], logits(model, IDS[:1, :-3])
    assert (padded[: len(alone[0])] - alone[0]).abs().max() < 1e-5
    if "bert" in name:
        types = torch.zeros_like(IDS)
        assert (logits(model, IDS, token_type_ids=types) - prompted).abs().max() < 1e-5
    assert gradients_reach(model)
    assert torch.equal(logits(remove(model), IDS), base)


def test_berts_pooler_reads_the_texts_first_token_behind_a_prompt():
    model = build("bert, texts")
    with torch.no_grad():
        hidden = model.bert(input_ids=torch.cat([TEXTS, IDS], dim=1)).last_hidden_state
        expected = model.classifier(model.bert.pooler(hidden[:, N:]))
    prompted = apply(model, PROMPTS["prompt"])
    assert torch.allclose(logits(prompted, IDS), expected, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(prompted(IDS, return_dict=False)[0], expected, atol=1e-6)


def test_a_model_that_counts_past_padding_does_so_behind_a_prompt():
    model = apply(build("roberta"), PROMPTS["prompt"])
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    ids[0, :4] = mask[0, :4] = 0
    row = logits(model, ids, attention_mask=mask)[0, 4:]
    assert torch.allclose(row, logits(model, IDS[:1, 4:])[0], atol=1e-5)
    positions = torch.arange(1, 10).expand(2, -1)
    assert torch.equal(logits(model, IDS, position_ids=positions), logits(model, IDS))
    assert context_of(model) == 63
    assert logits(model, IDS[:1].repeat(1, 7)[:, : 63 - N]).isfinite().all()
    with pytest.raises(ValueError, match="must fit the model's context of 63"):
        model(IDS[:1].repeat(1, 7)[:, : 64 - N])


@every_model
def test_what_full_and_frozen_fine_tuning_open(name: str):
    model = apply(build(name), FullFineTuning())
    names = {id(module): name for name, module in model.named_modules()}
    assert len(trained(model)) == len(list(model.parameters()))
    final = [names[id(norm)] for norm in final_norms(model)]
    assert final == ([] if name in NO_FINAL_NORM else [FINAL_NORM.get(name, "model.norm")])
    heads = classifier_heads(model)
    assert heads == ([] if name in LANGUAGE_MODELS else HEADS.get(name, ["classifier"]))
    apply(model, FrozenFineTuning(last_n_layers=1))
    heads = [model.get_submodule(head) for head in heads] or [output_layer(model)]
    opened = [transformer_blocks(model)[-1], *final_norms(model), *heads]
    assert {id(p) for p in trained(model)} == {id(p) for part in opened for p in part.parameters()}
    assert gradients_reach(model)
    apply(model, FrozenFineTuning(train_norms=True, train_head=False))
    assert {id(p) for p in trained(model)} == {
        id(p) for norm in norm_layers(model) for p in norm.parameters()
    }
    assert all(p.ndim == 1 for p in trained(model))


@every_model
def test_four_bits_are_not_trained_and_not_packed_twice(name: str):
    model = quantize_model(build(name))
    assert isinstance(output_layer(model), nn.Linear | None)
    answer = logits(model, IDS)
    for method in (FullFineTuning(), FrozenFineTuning(last_n_layers=1)):
        with pytest.raises(ValueError, match=r"\(NF4Linear\) keeps its weight in few bits"):
            apply(model, method)
    with pytest.raises(ValueError, match="is stored in few bits already"):
        quantize_model(model)
    apply(model, FrozenFineTuning(train_norms=True))
    assert torch.equal(logits(model, IDS), answer)
    with pytest.raises(ValueError, match="the model carries soft_prompt: quantise the base first"):
        quantize_model(apply(build(name), PROMPTS["prompt"]))


@every_model
def test_packed_texts_are_kept_apart_or_packing_is_refused(name: str):
    model = build(name).train()
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    texts = [IDS[0, :5].tolist(), IDS[1, :6].tolist(), IDS[0, 4:].tolist()]
    examples = [{"input_ids": text, "labels": text} for text in texts]
    packed = pack_examples(examples, 16)
    if name in PACKING:
        check_packing(model)
        batch = pad_packed(list(packed), 0)
        places = {"position_ids": batch["position_ids"], "use_cache": False}
        rows = logits(build(name), batch["input_ids"], **places)
        for row, group in zip(rows, packed.groups, strict=True):
            at = 0
            for index in group:
                alone = logits(build(name), torch.tensor([texts[index]]))[0]
                assert (row[at : at + len(alone)] - alone).abs().max() < 1e-5
                at += len(alone)
    else:
        with pytest.raises(ValueError, match=f"^{type(model).__name__} .*: train with packing_len"):
            check_packing(model)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_leak_is_seen_in_any_precision_and_prompts_are_not_packed(dtype: torch.dtype):
    check_packing(build("llama").to(dtype))
    with pytest.raises(ValueError, match="BloomForCausalLM does not keep packed texts apart"):
        check_packing(build("bloom").to(dtype))
    with pytest.raises(ValueError, match="a packed row holds several texts"):
        check_packing(apply(build("llama").to(dtype), PROMPTS["prompt"]))


def test_texts_that_are_kept_apart_at_other_positions_are_no_packed_texts():
    model = build("gpt2")
    at_place = model.transformer.wpe.register_forward_pre_hook(
        lambda _, given: (torch.arange(given[0].shape[1])[None],)
    )
    with pytest.raises(ValueError, match="GPT2LMHeadModel does not keep packed texts apart"):
        check_packing(model)
    at_place.remove()
    check_packing(model)


@pytest.mark.parametrize("kind", [*LAYERS, *PROMPTS, "full", "frozen", "four bits"])
def test_an_encoder_with_a_decoder_is_refused(kind: str):
    methods = LAYERS | PROMPTS | {"full": FullFineTuning(), "frozen": FrozenFineTuning()}
    model = T5()
    with pytest.raises(ValueError, match="T5ForConditionalGeneration has an encoder and a decoder"):
        quantize_model(model) if kind == "four bits" else apply(model, methods[kind])
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", [*LAYERS, *PROMPTS])
def test_questions_change_nothing(kind: str):
    method, model = (LAYERS | PROMPTS)[kind], build("llama")
    apply(model, method).train()
    architecture = architecture_of(build("llama"))
    model(IDS)
    before = condition_of(model)
    method.footprint(architecture)
    base_fingerprint(model)
    count_parameters(model)
    if kind in PROMPTS:
        model.soft_prompt.final_tokens()
        method.token_width(model)
    elif kind != "bottleneck":
        for layer in adapted_layers(model).values():
            layer.adapted_weight()
            layer.factors()
    assert condition_of(model) == before


def test_nola_draws_from_its_own_seed_alone():
    model, state = build("llama"), torch.get_rng_state()
    apply(model, LAYERS["nola"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["llama", "opt"])
@pytest.mark.parametrize("kind", ["prompt", "p-tuning", "prefix", "dylora"])
@pytest.mark.parametrize("is_copy", [False, True])
def test_hooks_belong_to_the_copy_that_they_are_on(kind: str, name: str, is_copy: bool):
    model = apply(build(name), (LAYERS | PROMPTS)[kind])
    twin, base = copy.deepcopy(model), logits(build(name), IDS)
    answer = logits(model, IDS)
    gone, left = (twin, model) if is_copy else (model, twin)
    assert torch.equal(logits(remove(gone), IDS), base)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in gone.modules())
    assert torch.equal(logits(left, IDS), answer)
    if kind == "dylora":
        left.train()(IDS)
        assert all(layer.drawn_rank for layer in adapted_layers(left).values())
    else:
        assert gradients_reach(left)
    assert torch.equal(logits(remove(left.eval()), IDS), base)


def test_peft_counts_as_carrying():
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"])
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    for config in (lora, prompt):
        theirs = peft.get_peft_model(build("llama"), config)
        with pytest.raises(ValueError, match="the model carries PeftModel"):
            quantize_model(theirs)
        with pytest.raises(ValueError, match="carries an adapter already"):
            apply(theirs, LAYERS["lora"])
    classifier = peft.get_peft_model(build("llama, texts"), lora)
    assert [classifier_heads(m) for m in classifier.modules() if classifier_heads(m)] == [["score"]]
    inner = peft.get_peft_model(build("llama"), lora).base_model.model
    with pytest.raises(ValueError, match=r"carries model\.layers\.0\.self_attn\.q_proj"):
        quantize_model(inner)


@pytest.mark.parametrize("method", [*LAYERS.values(), *PROMPTS.values()], ids=[*LAYERS, *PROMPTS])
def test_shapes_alone_are_computed_on_the_meta_device(method: object):
    model = apply(build("llama"), method).to("meta")
    assert model(input_ids=IDS.to("meta")).logits.shape == (*IDS.shape, VOCABULARY)
