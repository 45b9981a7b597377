import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification

from course_utils.methods import (
    AdapterError,
    apply,
    load_adapter,
    merge,
    remove,
    save_adapter,
    set_rank,
)
from course_utils.methods.adapter_set import AdapterSet
from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from tests.methods.adapters import SHAPE, build, disturb, logits


def two_adapters() -> tuple[AdapterSet, torch.Tensor, torch.Tensor]:
    """A model with the adapters "one" and "two", and the logits of each."""
    model = disturb(apply(build(), LoRAConfig(rank=2, use_rslora=True)))
    adapters = AdapterSet(model, "one")
    first = logits(model)
    disturb(model, seed=5)
    adapters.keep("two")
    return adapters, first, logits(model)


def test_switching_gives_each_adapters_logits():
    adapters, first, second = two_adapters()
    assert list(adapters) == ["one", "two"]
    assert not torch.allclose(first, second, atol=1e-3)
    for name, expected in (("one", first), ("two", second), ("one", first)):
        adapters.use(name)
        assert adapters.active == name
        assert torch.equal(logits(adapters.model), expected)


def test_no_adapter_at_all_is_the_base():
    adapters, *_ = two_adapters()
    adapters.mix({})
    assert torch.equal(logits(adapters.model), logits(build()))


def test_a_mixture_is_the_weighted_sum_of_the_updates():
    adapters, *_ = two_adapters()

    def updates() -> list[torch.Tensor]:
        layers = adapted_layers(adapters.model).values()
        return [(layer.adapted_weight() - layer.base.weight).detach() for layer in layers]

    adapters.use("one")
    first = updates()
    adapters.use("two")
    second = updates()
    adapters.mix({"one": 0.3, "two": -2.0})
    for mixed, a, b in zip(updates(), first, second, strict=True):
        assert torch.allclose(mixed, 0.3 * a - 2.0 * b, atol=1e-5)
    assert adapters.active is None


def test_a_mixture_can_be_saved(tmp_path):
    adapters, *_ = two_adapters()
    adapters.mix({"one": 0.5, "two": 0.5})
    save_adapter(adapters.model, tmp_path)
    assert torch.equal(logits(load_adapter(build(), tmp_path)), logits(adapters.model))


def test_what_is_kept_does_not_change_with_the_model():
    adapters, first, _ = two_adapters()
    adapters.use("one")
    disturb(adapters.model, seed=8)
    adapters.use("one")
    assert torch.equal(logits(adapters.model), first)


def test_an_optimizer_goes_on_with_a_switched_adapter():
    adapters, first, _ = two_adapters()
    trained = [p for p in adapters.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    adapters.use("one")
    adapters.model(torch.ones(1, 3, dtype=torch.long)).logits.square().sum().backward()
    optimizer.step()
    assert not torch.allclose(logits(adapters.model), first, atol=1e-3)


def test_an_adapter_from_disk_joins_the_others(tmp_path):
    adapters, first, second = two_adapters()
    other = disturb(apply(build(), LoRAConfig(rank=3, alpha=7)), seed=9)
    save_adapter(other, tmp_path / "three")
    adapters.load("three", tmp_path / "three")
    assert torch.equal(logits(adapters.model), second)
    adapters.use("three")
    assert torch.equal(logits(adapters.model), logits(other))
    adapters.use("one")
    assert torch.equal(logits(adapters.model), first)
    few = apply(build(), LoRAConfig(rank=2, target_modules=("q_proj",)))
    adapters.load("few", save_adapter(few, tmp_path / "few"))
    adapters.use("few")
    assert torch.equal(logits(adapters.model), logits(few))
    with pytest.raises(ValueError, match="one, few adapt different layers and cannot be mixed"):
        adapters.mix({"one": 1.0, "few": 1.0})
    elsewhere = apply(build(seed=5), LoRAConfig(rank=2))
    with pytest.raises(AdapterError, match="another base"):
        adapters.load("four", save_adapter(elsewhere, tmp_path / "four"))


def test_a_classifiers_head_goes_with_its_adapter():
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=3))
    adapters = AdapterSet(apply(model.eval(), LoRAConfig(rank=2)), "one")
    first = logits(model)
    with torch.no_grad():
        model.score.weight.mul_(2)
    adapters.keep("two")
    adapters.use("one")
    assert torch.equal(logits(model), first)
    adapters.use("two")
    assert torch.allclose(logits(model), 2 * first, atol=1e-5)


def test_the_base_is_left_alone_by_an_adapter_that_was_merged():
    adapters, first, _ = two_adapters()
    few = disturb(apply(build(), LoRAConfig(rank=3)))
    adapters._kept["few"] = AdapterSet(few, "few")._kept["few"]
    merge(adapters.model)
    for name, expected in (("few", logits(few)), ("one", first)):
        adapters.use(name)
        assert torch.equal(logits(adapters.model), expected)
    assert torch.equal(logits(remove(adapters.model)), logits(build()))


def test_a_dylora_is_kept_with_the_rank_it_is_set_to():
    model = disturb(apply(build(), DyLoRAConfig(rank=4)))
    outputs, adapters = {}, None
    for rank in (2, 4):
        set_rank(model, rank)
        adapters = adapters or AdapterSet(model, "2")
        adapters.keep(str(rank))
        outputs[str(rank)] = logits(model)
    apply(remove(model), LoRAConfig(rank=2))
    for name in ("2", "4", "2"):
        adapters.use(name)
        assert torch.equal(logits(model), outputs[name])


KINDS = {
    "LoRA": LoRAConfig(rank=2),
    "DyLoRA": DyLoRAConfig(rank=3),
    "prompt": PromptTuningConfig(num_virtual_tokens=2),
    "prefix": PrefixTuningConfig(num_virtual_tokens=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_fails_leaves_the_model_as_it_was(kind: str, monkeypatch):
    """At whatever place: the new adapter is on the model already when its numbers fail."""
    model = disturb(apply(build(), KINDS[kind]))
    adapters = AdapterSet(model, "first")
    others = {"lora": LoRAConfig(rank=1), "small": BottleneckConfig(bottleneck_size=2)}
    for name, method in others.items():
        adapters._kept[name] = AdapterSet(apply(build(), method), name)._kept[name]
    if kind == "DyLoRA":
        set_rank(model, 2)
    if kind == "LoRA":
        merge(model)
    parameters = [(name, p, p.requires_grad) for name, p in model.named_parameters()]
    before, hooks = logits(model), len(model._forward_pre_hooks)

    def no_memory(*_: object) -> None:
        raise MemoryError

    for place in ("apply", "fill"):
        with monkeypatch.context() as patched:
            patched.setattr(f"course_utils.methods.storage.state.{place}", no_memory)
            for call in (
                lambda: adapters.use("lora"),
                lambda: adapters.mix({"lora": 1.0}),
                lambda: adapters.stack(["small", "small"]),
            ):
                with pytest.raises(MemoryError):
                    call()
        assert torch.equal(logits(model), before)
        assert adapters.active == "first"
        after = [(name, p, p.requires_grad) for name, p in model.named_parameters()]
        assert [(n, id(p), r) for n, p, r in after] == [(n, id(p), r) for n, p, r in parameters]
        assert len(model._forward_pre_hooks) == hooks
    assert torch.equal(logits(remove(model)), logits(build())) or kind == "LoRA"


def test_an_adapter_that_fits_no_more_is_refused_before_anything_changes():
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=3)).eval()
    adapters = AdapterSet(apply(model, LoRAConfig(rank=2)), "one")
    apply(remove(model), PromptTuningConfig(num_virtual_tokens=2))
    adapters.keep("two")
    model.score = nn.Linear(40, 5, bias=False)
    before = logits(model)
    for name in ("one", "two"):
        with pytest.raises(ValueError, match=r"score.weight is \(3, 40\) and should be \(5, 40\)"):
            adapters.use(name)
    assert adapters.active == "two"
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_a_model_has_hooks_of_its_own(kind: str):
    model = disturb(apply(build(), KINDS[kind]))
    before, other = logits(model), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    changed = logits(other)
    assert torch.equal(logits(model), before)
    assert not torch.equal(changed, before)
    remove(model)
    assert torch.equal(logits(model), logits(build()))
    assert torch.equal(logits(other), changed)
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in remove(other).modules()]
    assert not any(hooks)


def test_weights_of_a_mixture_and_names_are_checked():
    adapters, _, second = two_adapters()
    for weights, message in (
        ({"one": float("nan")}, "the weight of 'one'=nan must be a finite number"),
        ({"one": True}, "the weight of 'one'=True must be a finite number"),
        ({"one": "1"}, "the weight of 'one'='1' must be a finite number"),
        ({"one": 1e300}, "lead beyond the largest float32"),
        ({1: 1.0}, "adapter=1 must be one of one, two"),
        ([("one", 1.0)], "must give a number for each name"),
        (None, "weights=None must give a number for each name"),
    ):
        with pytest.raises(ValueError, match=message):
            adapters.mix(weights)
    for call in (lambda: adapters.use(["one"]), lambda: adapters.use(None)):
        with pytest.raises(ValueError, match="must be one of one, two"):
            call()
    for call in (lambda: adapters.keep(None), lambda: adapters.load(5, "nowhere")):
        with pytest.raises(ValueError, match=r"name=.* must be a text"):
            call()
    for names in ("one", None, 5, []):
        with pytest.raises(ValueError, match="must be one or more bottleneck adapters"):
            adapters.stack(names)
    assert list(adapters) == ["one", "two"]
    assert adapters.active == "two"
    assert torch.equal(logits(adapters.model), second)


def test_unknown_names_and_other_methods_are_refused():
    adapters, _, second = two_adapters()
    for call in (lambda: adapters.use("three"), lambda: adapters.mix({"one": 1.0, "three": 1.0})):
        with pytest.raises(ValueError, match="adapter='three' must be one of one, two"):
            call()
    assert torch.equal(logits(adapters.model), second)
    big = AdapterSet(apply(build(), LoRAConfig(rank=15)), "one")
    big.keep("two")
    with pytest.raises(ValueError, match="ranks that add up to 30 must not exceed 20"):
        big.mix({"one": 1.0, "two": 1.0})
    with pytest.raises(ValueError, match="carries no adapter"):
        AdapterSet(build(), "one")
    with pytest.raises(ValueError, match="DoRAConfig cannot be mixed: all must be LoRA, or all"):
        AdapterSet(apply(build(), DoRAConfig(rank=2)), "one").mix({"one": 1.0})
