"""What every method shares: ``apply`` puts it on a model, ``count_parameters`` counts it."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import nn

from course_utils.methods.carried import carried_by

Model = TypeVar("Model", bound=nn.Module)


class Method(Protocol):
    """A frozen dataclass that describes a method and can put it on a model."""

    def apply_to(self, model: nn.Module) -> None:
        """Change ``model`` in place: replace layers, and say which parameters train."""


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of a model; shared ones count once.

    Args:
        trainable: Parameters that require a gradient.
        total: All parameters.
    """

    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trainable over total, in 0..1."""
        return self.trainable / self.total

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters train ({self.share:.2%})"


def apply(model: Model, method: Method) -> Model:
    """Put a method on a model, in place, and return the model.

    Args:
        model: Base model; which of its parameters train is decided anew.
        method: Configuration of a method, as in ``FrozenFineTuning(last_n_layers=2)``.

    Raises:
        TypeError: If ``method`` is not the configuration of a method.
        ValueError: If the method does not fit the model, or the model carries an adapter.
    """
    if not hasattr(method, "apply_to"):
        raise TypeError(
            f"{method!r} is not a method's configuration, such as FrozenFineTuning(last_n_layers=2)"
        )
    if taken := carried_by(model):
        raise ValueError(
            f"{taken} carries an adapter already: `remove` it first (to keep what it learnt, "
            "`merge` and then `remove`)"
        )
    method.apply_to(model)
    model.fine_tuning_method = method
    return model


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters of a model and those that train."""
    parameters = list(model.parameters())
    return ParameterCount(
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        total=sum(p.numel() for p in parameters),
    )
