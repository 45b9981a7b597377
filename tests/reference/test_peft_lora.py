"""LoRA and DoRA against PEFT: same tensors in, same numbers out; files travel both ways."""

import json
import warnings
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaForSequenceClassification,
)

from course_utils.methods import AdapterError, apply, load_adapter, merge, save_adapter
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.storage.folder import CONFIG_FILE
from course_utils.methods.storage.state import adapter_tensors
from course_utils.models import set_activation_checkpointing
from tests.methods.adapters import IDS, MODELS, SHAPE, build

METHODS = {
    "LoRA": LoRAConfig(rank=3, alpha=5),
    "rsLoRA": LoRAConfig(rank=4, alpha=5, use_rslora=True),
    "DoRA": DoRAConfig(rank=3, alpha=5),
}


def build_theirs(name: str, method: LoRAConfig) -> PeftModel:
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        target_modules="all-linear",
        lora_dropout=method.dropout,
        use_rslora=method.use_rslora,
        use_dora=isinstance(method, DoRAConfig),
        fan_in_fan_out=name == "gpt2",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(build(name), config)


def theirs_by_our_names(peft_model: PeftModel) -> dict[str, nn.Parameter]:
    named = {n: p for n, p in peft_model.named_parameters() if p.requires_grad}
    return {
        n.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector"): p
        for n, p in named.items()
    }


def same_start(name: str, method: LoRAConfig) -> tuple[nn.Module, PeftModel]:
    """Both models with the same adapter, whose B is no longer zero."""
    ours, theirs = apply(build(name), method), build_theirs(name, method)
    tensors, places = adapter_tensors(ours, method), theirs_by_our_names(theirs)
    assert tensors.keys() == places.keys()
    torch.manual_seed(1)
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.add_(0.1 * torch.randn_like(tensor))
            places[key].copy_(tensor)
    return ours, theirs


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).norm() <= 1e-5 * theirs.norm())


def loss_of(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS, labels=IDS).loss


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", METHODS)
def test_forward_gradients_ten_steps_and_merge(name: str, kind: str):
    method = METHODS[kind]
    ours, theirs = same_start(name, method)
    assert close(ours(IDS).logits, theirs(IDS).logits)

    loss_of(ours).backward()
    loss_of(theirs).backward()
    mine, others = adapter_tensors(ours, method), theirs_by_our_names(theirs)
    for key, tensor in mine.items():
        assert close(tensor.grad, others[key].grad), key

    for model, parameters in ((ours, mine), (theirs, others)):
        optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3)
        for _ in range(10):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    for key, tensor in mine.items():
        assert (tensor - others[key]).norm() <= 1e-5 * others[key].norm(), key

    merge(ours)
    plain = theirs.merge_and_unload()
    for layer_name, layer in adapted_layers(ours).items():
        assert close(layer.merged.weight, plain.get_submodule(layer_name).weight), layer_name


def test_a_dora_with_its_norm_in_the_graph_loads_in_peft(tmp_path: Path):
    ours, _ = same_start("llama", DoRAConfig(rank=3, alpha=5, detach_norm=False))
    loss_of(ours).backward()
    theirs = PeftModel.from_pretrained(build("llama"), save_adapter(ours, tmp_path))
    assert close(ours(IDS).logits, theirs(IDS).logits)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", METHODS)
def test_what_ours_saves_loads_in_peft_and_back(name: str, kind: str, tmp_path: Path):
    ours, _ = same_start(name, METHODS[kind])
    save_adapter(ours, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(build(name), tmp_path / "ours")
    assert close(ours(IDS).logits, theirs(IDS).logits)

    theirs.save_pretrained(tmp_path / "theirs")
    again = load_adapter(build(name), tmp_path / "theirs")
    assert torch.equal(again(IDS).logits, ours(IDS).logits)


def test_a_classifiers_head_travels_with_the_adapter(tmp_path: Path):
    def classifier() -> LlamaForSequenceClassification:
        torch.manual_seed(0)
        return LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=3))

    ours = apply(classifier(), LoRAConfig(rank=2))
    with torch.no_grad():
        for tensor in adapter_tensors(ours, ours.fine_tuning_method).values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    save_adapter(ours, tmp_path)
    theirs = PeftModel.from_pretrained(classifier(), tmp_path)
    assert close(ours(IDS).logits, theirs(IDS).logits)
    assert torch.equal(load_adapter(classifier(), tmp_path)(IDS).logits, ours(IDS).logits)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_adapter(classifier(), tmp_path / "theirs")
    assert torch.equal(again(IDS).logits, ours(IDS).logits)


# PEFT's options, each in use: those that are read, with which the logits must be PEFT's...
READ = {
    "task_type": {"task_type": None},
    "base_model_name_or_path": {"base_model_name_or_path": "someone/model"},
    "revision": {"revision": "main"},
    "inference_mode": {"inference_mode": True},
    "r": {"r": 2},
    "lora_alpha": {"lora_alpha": 0.5},
    "lora_dropout": {"lora_dropout": 0.5},
    "use_rslora": {"use_rslora": True},
    "use_dora": {"use_dora": True},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "target_modules": {"target_modules": r".*layers\.1.*_proj"},
    "exclude_modules": {"exclude_modules": ["k_proj", "mlp.up_proj"]},
    "layers_to_transform": {"target_modules": ["q_proj"], "layers_to_transform": 1},
    "layers_pattern": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
        "layers_pattern": "layers",
    },
    "modules_to_save": {"modules_to_save": ["nothing_of_this_name"]},
    "init_lora_weights": {"init_lora_weights": "gaussian"},
    "init_lora_weights: orthogonal": {"init_lora_weights": "orthogonal"},
    "init_lora_weights: mica": {"init_lora_weights": "mica"},
    "eva_config": {"init_lora_weights": "eva"},
    "qalora_group_size": {"qalora_group_size": 8},
    "megatron_core": {"megatron_core": "elsewhere"},
}
# ... and those that are refused by their names.
REFUSED = {
    "bias": "lora_only",
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 2},
    "megatron_config": {"a": 1},
    "trainable_token_indices": [1, 2],
    "loftq_config": {"loftq_bits": 4},
    "corda_config": {"a": 1},
    "lora_ga_config": {"a": 1},
    "velora_config": {"num_groups": 4},
    "alora_invocation_tokens": [5],
    "use_qalora": True,
    "monteclora_config": {"a": 1},
    "layer_replication": [[0, 2], [1, 2]],
    "lora_bias": True,
    "target_parameters": ["experts"],
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 1},
    "kasa_config": {"a": 1},
    "ensure_weight_tying": True,
    "an_option_of_tomorrow": 0,
}
STARTS = ("pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "of_tomorrow", 1)


def saved_by_peft(folder: Path, **options: object) -> PeftModel:
    """A model with a LoRA of PEFT's that is no longer a no-op, which is in the folder as well."""
    config = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(build(), LoraConfig(**config)).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                if "lora_" in name:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.1 * noise)
        theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("name", READ)
def test_an_option_that_is_read_gives_pefts_logits(name: str, tmp_path: Path):
    theirs = saved_by_peft(tmp_path, **READ[name])
    assert name.partition(":")[0] in json.loads((tmp_path / CONFIG_FILE).read_text())
    ours = load_adapter(build(), tmp_path)
    assert close(ours(IDS).logits, theirs(IDS).logits)
    assert not close(ours(IDS).logits, build()(IDS).logits)


def test_every_other_option_is_refused_by_its_name(tmp_path: Path):
    saved_by_peft(tmp_path)
    text, model = (tmp_path / CONFIG_FILE).read_text(), build()
    cases = [*REFUSED.items(), *(("init_lora_weights", start) for start in STARTS)]
    for name, value in cases:
        (tmp_path / CONFIG_FILE).write_text(json.dumps(json.loads(text) | {name: value}))
        with pytest.raises(AdapterError, match=f"uses {name}=.*, which is not read here"):
            load_adapter(model, tmp_path)
    left = {"auto_mapping", "peft_type", "peft_version", "runtime_config"}  # PEFT's own affair
    read = {name.partition(":")[0] for name in READ}
    assert {field.name for field in fields(LoraConfig)} <= read | set(REFUSED) | left


@pytest.mark.parametrize("names", [["lm_head"], ["embed_tokens"], ["down_proj"]])
def test_modules_that_peft_trained_whole_are_refused_by_the_options_name(names, tmp_path: Path):
    saved_by_peft(tmp_path, modules_to_save=names, target_modules=["q_proj"])
    with pytest.raises(AdapterError, match=f"uses modules_to_save=.*{names[0]} is no classifier"):
        load_adapter(build(), tmp_path)


def test_an_embedding_or_a_head_that_peft_adapted_is_refused_as_a_target(tmp_path: Path):
    for name in ("embed_tokens", "lm_head"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saved_by_peft(tmp_path / name, target_modules=["q_proj", name])
        with pytest.raises(AdapterError, match=f"target_modules='.*{name}' must be one of"):
            load_adapter(build(), tmp_path / name)


@pytest.mark.parametrize(
    "kind",
    [
        BertForMaskedLM,
        BertForQuestionAnswering,
        BertForMultipleChoice,
        RobertaForSequenceClassification,
    ],
)
def test_models_of_other_tasks_travel_both_ways(kind: type[nn.Module], tmp_path: Path):
    def some_model() -> nn.Module:
        torch.manual_seed(0)
        sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
        config = kind.config_class(vocab_size=61, num_attention_heads=2, pad_token_id=0, **sizes)
        return kind(config).eval()

    def output(model: nn.Module) -> torch.Tensor:
        return model(IDS if "Choice" not in kind.__name__ else IDS[None])[0]

    ours = apply(some_model(), LoRAConfig(rank=2))
    with torch.no_grad():
        for tensor in adapter_tensors(ours, ours.fine_tuning_method).values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    theirs = PeftModel.from_pretrained(some_model(), save_adapter(ours, tmp_path / "ours"))
    assert close(output(ours), output(theirs))
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(output(load_adapter(some_model(), tmp_path / "theirs")), output(ours))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_dropout_drops_the_same_inputs(method):
    method = replace(method, dropout=0.3)
    ours, theirs = same_start("llama", method)
    outputs = []
    for model in (ours, theirs):
        torch.manual_seed(2)
        outputs.append(model.train()(IDS).logits)
    assert close(*outputs)
    assert not torch.allclose(outputs[0], ours.eval()(IDS).logits)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_recomputed_blocks_give_the_same_gradients(method):
    ours, _ = same_start("llama", replace(method, dropout=0.3))
    gradients = []
    for is_on in (False, True):
        set_activation_checkpointing(ours, is_on)
        ours.train().zero_grad()
        torch.manual_seed(2)
        ours(IDS, labels=IDS).loss.backward()
        gradients.append([p.grad.clone() for p in ours.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_base_in_16_bits_is_adapted_as_peft_adapts_it(method):
    ours, theirs = same_start("llama", method)
    for model in (ours, theirs):
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
            assert parameter.requires_grad == (
                "lora" in name or name.endswith((".A", ".B")) or "magnitude" in name
            )
    outputs = [model.eval()(IDS).logits.float() for model in (ours, theirs)]
    spread = outputs[1].abs().max()
    # bfloat16 has eight bits of mantissa, and the two do not round in the same order.
    assert (outputs[0] - outputs[1]).abs().max() < 0.03 * spread


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_autocast_computes_what_peft_computes(method):
    ours, theirs = same_start("llama", method)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [model.eval()(IDS).logits.float() for model in (ours, theirs)]
    assert (outputs[0] - outputs[1]).abs().max() < 0.03 * outputs[1].abs().max()
