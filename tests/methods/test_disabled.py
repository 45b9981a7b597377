import pytest
import torch

from course_utils.methods import adapter_disabled, apply, merge
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.lora_xs import LoRAXSConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.tiny_lora import TinyLoRAConfig
from course_utils.quantization import quantize_model
from tests.methods.adapters import MODELS, build, disturb, logits

METHODS = (
    LoRAConfig(rank=2, dropout=0.5),
    DoRAConfig(rank=2),
    DyLoRAConfig(rank=2),
    NOLAConfig(),
    LoRAXSConfig(),
    TinyLoRAConfig(),
)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_with_the_adapter_off_the_base_answers_and_then_the_adapter_again(name, method):
    model = disturb(apply(build(name), method))
    adapted = logits(model)
    with adapter_disabled(model):
        assert torch.equal(logits(model), logits(build(name)))
    assert torch.equal(logits(model), adapted)
    assert not torch.allclose(adapted, logits(build(name)), atol=1e-3)


def test_a_base_in_four_bits_comes_back_too():
    model = disturb(apply(quantize_model(build()), LoRAConfig(rank=2)))
    with adapter_disabled(model):
        assert torch.equal(logits(model), logits(quantize_model(build())))


def test_it_nests():
    model = disturb(apply(build(), LoRAConfig(rank=2)))
    adapted, base = logits(model), logits(build())
    with adapter_disabled(model):
        with adapter_disabled(model):
            assert torch.equal(logits(model), base)
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), adapted)


def test_an_error_inside_leaves_the_adapter_on():
    model = disturb(apply(build(), LoRAConfig(rank=2)))
    adapted = logits(model)
    with pytest.raises(KeyError), adapter_disabled(model):
        raise KeyError
    assert torch.equal(logits(model), adapted)


def test_a_merged_adapter_is_merged_again():
    model = merge(disturb(apply(build(), LoRAConfig(rank=2))))
    merged = {name: layer.merged for name, layer in adapted_layers(model).items()}
    with adapter_disabled(model):
        assert torch.equal(logits(model), logits(build()))
    assert all(layer.merged is merged[name] for name, layer in adapted_layers(model).items())


def test_nothing_is_left_behind():
    model = apply(build(), LoRAConfig(rank=2))
    before = model.state_dict()
    with adapter_disabled(model):
        pass
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not model.train().eval().training


def test_a_model_without_an_adapter_is_told():
    with pytest.raises(ValueError, match="carries no adapter"), adapter_disabled(build()):
        pass
