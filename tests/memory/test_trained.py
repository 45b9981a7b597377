"""What a method trains: said by its configuration, and by any other that can say it."""

from dataclasses import dataclass

import pytest

from course_utils.memory import (
    AddedModule,
    Architecture,
    BlockTraining,
    Footprint,
    Trained,
)
from course_utils.methods import (
    FrozenFineTuning,
    LoRAConfig,
)
from tests.memory.steps import METHODS, cost, tied


@dataclass(frozen=True)
class TiedHeadFootprint:
    """Trains the head without untying it."""

    def footprint(self, architecture: Architecture) -> Trained:
        return Trained(blocks=(BlockTraining(),) * architecture.n_layers, head=True)


def test_tied_head_trained_as_it_is_keeps_every_block() -> None:
    as_it_is, untied = cost(TiedHeadFootprint()), cost(FrozenFineTuning(last_n_layers=0))
    assert min(as_it_is.layers_bytes) > 0
    assert sum(untied.layers_bytes) == 0
    matrix = tied().vocab_size * tied().d_model
    assert untied.n_parameters == as_it_is.n_parameters + matrix
    assert untied.n_trained == as_it_is.n_trained == matrix


@dataclass(frozen=True)
class SidecarFootprint:
    """A method that memory knows nothing of: a module of its own at the end of every block."""

    width: int

    def footprint(self, architecture: Architecture) -> Trained:
        d = architecture.d_model
        module = AddedModule(parameters=(d * self.width,) * 2, saved_per_token=d + self.width)
        return Trained(blocks=(BlockTraining(added=(module,)),) * architecture.n_layers)


def test_new_methods_plug_in_through_their_footprint() -> None:
    method = SidecarFootprint(16)
    assert isinstance(method, Footprint)
    assert all(isinstance(footprint, Footprint) for footprint in METHODS.values())
    predicted, d = cost(method), tied().d_model
    assert predicted.n_trained == tied().n_layers * 2 * d * 16
    # Nothing below the first block's module needs a gradient, so it alone keeps anything there.
    assert predicted.layers_bytes[0] >= 2 * 64 * 4 * (d + 16)
    assert predicted.layers_bytes[1] > 4 * predicted.layers_bytes[0]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (FrozenFineTuning(last_n_layers=31), "last_n_layers=31 must be in 0..30"),
        (LoRAConfig(rank=10**6), "rank=1000000 must be in"),
        (LoRAConfig(target_modules=("query",)), "target_modules=.*must be 'all-linear'"),
        (SidecarFootprint(-1), "parameters=-576 must be at least 0"),
        (SidecarFootprint(0.5), "parameters=288.0 must be a whole number, at least 0"),
        *(
            (wrong, "method=.* must be a method's configuration, such as LoRAConfig")
            for wrong in (None, "lora", 5, LoRAConfig, object())
        ),
    ],
)
def test_what_does_not_fit_and_what_is_no_method_is_told(method: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(method)
