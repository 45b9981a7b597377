import pytest
import torch

from course_utils.methods import apply, load_adapter, save_adapter
from course_utils.methods.adapters import AdapterSet
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.linear import adapted_layers
from course_utils.methods.lora import LoRAConfig
from tests.methods.adapters import build, disturb, logits


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
        assert torch.allclose(logits(adapters.model), expected, atol=1e-5)


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
    assert torch.allclose(logits(adapters.model), first, atol=1e-5)


def test_a_switched_adapter_trains():
    adapters, *_ = two_adapters()
    adapters.use("one")
    layer = next(iter(adapted_layers(adapters.model).values()))
    adapters.model(torch.ones(1, 3, dtype=torch.long)).logits.sum().backward()
    assert layer.A.grad.any()
    assert layer.B.grad.any()


def test_unknown_names_and_other_methods_are_refused():
    adapters, _, second = two_adapters()
    for call in (lambda: adapters.use("three"), lambda: adapters.mix({"one": 1.0, "three": 1.0})):
        with pytest.raises(KeyError, match="adapter 'three' must be one of one, two"):
            call()
    assert torch.equal(logits(adapters.model), second)
    for model in (build(), apply(build(), DoRAConfig(rank=2))):
        with pytest.raises(ValueError, match="carries no LoRA"):
            AdapterSet(model, "one")
