import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from course_utils.methods import AdapterError, apply, load_adapter, save_adapter
from course_utils.methods.adapter_set import AdapterSet
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
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


def test_unknown_names_and_other_methods_are_refused():
    adapters, _, second = two_adapters()
    for call in (lambda: adapters.use("three"), lambda: adapters.mix({"one": 1.0, "three": 1.0})):
        with pytest.raises(KeyError, match="adapter 'three' must be one of one, two"):
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
