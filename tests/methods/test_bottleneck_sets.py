"""Several bottleneck adapters on one base: switched, weighted, one behind another."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from course_utils.methods import AdapterError, apply, load_adapter, remove, save_adapter
from course_utils.methods.adapter_set import AdapterSet
from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from tests.methods.adapters import IDS, build, disturb, logits
from tests.methods.test_bottleneck import changed_base, classifier, numbers_of, update

CONFIGS = {
    "one": BottleneckConfig(bottleneck_size=5, scaling=0.7),
    "two": BottleneckConfig(bottleneck_size=3, scaling=2.0),
    "three": BottleneckConfig(reduction_factor=8),
}
every_model = pytest.mark.parametrize("name", ["llama", "gpt2"])
Numbers = dict[str, list[tuple[Tensor, ...]]]


def three_adapters(name: str = "llama") -> tuple[AdapterSet, Numbers, dict[str, Tensor]]:
    """A model with three adapters, their weights, and the logits with each."""
    model = disturb(apply(build(name), CONFIGS["one"]))
    adapters, numbers, outputs = AdapterSet(model, "one"), {}, {}
    for seed, (key, config) in enumerate(CONFIGS.items()):
        disturb(apply(remove(model), config), seed=seed)
        adapters.keep(key)
        numbers[key], outputs[key] = numbers_of(model), logits(model)
    return adapters, numbers, outputs


@every_model
def test_switching_gives_each_adapters_logits(name: str, tmp_path: Path):
    adapters, _, outputs = three_adapters(name)
    for key in ("one", "three", "two", "one"):
        adapters.use(key)
        assert torch.equal(logits(adapters.model), outputs[key])
    folder = save_adapter(adapters.model, tmp_path)
    adapters.use("two")
    adapters.load("again", folder)
    assert torch.equal(logits(adapters.model), outputs["two"])
    adapters.use("again")
    assert torch.equal(logits(adapters.model), outputs["one"])


@every_model
def test_a_mixture_is_the_weighted_mean_of_the_outputs(name: str, tmp_path: Path):
    adapters, numbers, outputs = three_adapters(name)
    for weights in ({"one": 1 / 3, "two": 1 / 3, "three": 1 / 3}, {"two": -0.5, "one": 1.7}):

        def by_hand(k: int, h: Tensor, weights=weights) -> Tensor:
            return h + sum(
                weight * CONFIGS[key].scaling * update(h, numbers[key][k])
                for key, weight in weights.items()
            )

        adapters.mix(weights)
        assert torch.allclose(logits(adapters.model), changed_base(name, by_hand), atol=2e-6)
        assert adapters.active is None

    def mean(k: int, h: Tensor) -> Tensor:
        return torch.stack(
            [h + CONFIGS[key].scaling * update(h, numbers[key][k]) for key in CONFIGS]
        ).mean(dim=0)

    adapters.mix(dict.fromkeys(CONFIGS, 1 / 3))
    assert torch.allclose(logits(adapters.model), changed_base(name, mean), atol=2e-6)
    saved = load_adapter(build(name), save_adapter(adapters.model, tmp_path))
    assert torch.equal(logits(saved), logits(adapters.model))
    adapters.mix({"two": 1.0})
    assert torch.allclose(logits(adapters.model), outputs["two"], atol=1e-6)


@every_model
def test_a_stack_applies_one_after_another(name: str, tmp_path: Path):
    adapters, numbers, outputs = three_adapters(name)

    def by_hand(k: int, h: Tensor) -> Tensor:
        for key in ("three", "one"):
            h = h + CONFIGS[key].scaling * update(h, numbers[key][k])
        return h

    adapters.stack(["three", "one"])
    stacked = logits(adapters.model)
    assert torch.allclose(stacked, changed_base(name, by_hand), atol=1e-6)
    assert adapters.active is None
    adapters.stack(["one", "three"])
    assert not torch.allclose(logits(adapters.model), stacked, atol=1e-3)
    for call in (lambda: adapters.keep("both"), lambda: save_adapter(adapters.model, tmp_path)):
        with pytest.raises(AdapterError, match="has several adapters: save each before they are"):
            call()
    assert not list(tmp_path.iterdir())
    # From a stack to a mixture, to another stack, to one adapter and to none.
    adapters.mix({"two": 1.0})
    assert torch.allclose(logits(adapters.model), outputs["two"], atol=1e-6)
    adapters.stack(["one", "one", "two"])
    assert {len(layer.adapters) for layer in adapted_layers(adapters.model).values()} == {3}
    adapters.use("two")
    assert torch.equal(logits(adapters.model), outputs["two"])
    adapters.stack(["one"])
    assert torch.equal(logits(adapters.model), outputs["one"])
    adapters.stack(["one", "two"])
    assert torch.equal(logits(remove(adapters.model)), logits(build(name)))


def test_a_stacks_adapters_train_together():
    adapters, *_ = three_adapters()
    adapters.stack(["one", "two"])
    adapters.model.train()(IDS, labels=IDS).loss.backward()
    for layer in adapted_layers(adapters.model).values():
        assert layer.base.weight.grad is None
        assert all(p.grad.norm() > 0 for p in layer.adapters.parameters())


def test_a_stack_ends_in_the_last_ones_head():
    model = disturb(apply(classifier(), CONFIGS["one"]))
    adapters = AdapterSet(model, "one")
    with torch.no_grad():
        model.score.weight.mul_(2)
    adapters.keep("two")
    for key, factor in (("two", 2), ("one", 1)):
        adapters.stack(["one", "two"] if key == "two" else ["two", "one"])
        assert torch.allclose(model.score.weight, factor * classifier().score.weight)
    before = model.score.weight.detach().clone()
    adapters.mix({"one": 0.5, "two": 0.5})
    assert torch.equal(model.score.weight, before)


def test_what_cannot_be_mixed_or_stacked():
    adapters, _, outputs = three_adapters()
    others = {
        "lora": LoRAConfig(rank=2),
        "one place": BottleneckConfig(bottleneck_size=5, placement="pfeiffer"),
        "relu": BottleneckConfig(bottleneck_size=5, activation="relu"),
    }
    for key, method in others.items():
        apply(remove(adapters.model), method)
        adapters.keep(key)
    adapters.use("three")
    one = "must be one or more bottleneck adapters"
    for call, message in (
        (lambda: adapters.mix({"one": 1, "lora": 1}), "adapt different layers and cannot be mixed"),
        (lambda: adapters.mix({"one": 1, "one place": 1}), "one, one place adapt different layers"),
        (lambda: adapters.mix({"one": 1, "relu": 1}), "must have the same activation"),
        (lambda: adapters.mix({}), "a mixture of bottlenecks must have at least one"),
        (lambda: adapters.stack([]), one),
        (lambda: adapters.stack(["one", "lora"]), rf"\['one', 'lora'\] {one}"),
        (lambda: adapters.stack(["one", "one place"]), "must all have the same placement"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="adapter='four' must be one of one, two, three, lora"):
        adapters.stack(["one", "four"])
    assert torch.equal(logits(adapters.model), outputs["three"])
    # Adapters of different activations may stand behind one another.
    adapters.stack(["one", "relu"])
    first = next(iter(adapted_layers(adapters.model).values())).adapters
    assert [adapter.activation for adapter in first] == ["gelu", "relu"]
    assert [adapter.scaling for adapter in first] == [0.7, 1.0]
