"""How long a run of a study is: so many steps, or until validation stops getting better."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from course_utils.validation import check_count, check_number

Score = Callable[[nn.Module], float]


@dataclass(frozen=True, kw_only=True)
class Length:
    """The length of a study's runs.

    Args:
        times: Steps, as a multiple of the task's own; the most of them, with ``patience``.
        looks: How often the model is scored on validation data on the way; 0 for never.
        patience: End a run after so many looks without a better score, and go back to the best: the
            rate stays at its peak then, since nobody knows when the run will end. None trains to
            the last step, at a rate that falls to zero.
    """

    times: float = 1.0
    looks: int = 0
    patience: int | None = None

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            ValueError: If a value is out of its range.
        """
        check_number("times", self.times, above=0)
        check_count("looks", self.looks, at_least=0 if self.patience is None else 1)
        check_count("patience", self.patience, is_none_ok=True)

    @property
    def final_ratio(self) -> float:
        """The rate at the end, as a share of its peak."""
        return 0.0 if self.patience is None else 1.0


class Plateau(Exception):  # noqa: N818
    """Raised within a run to end it: validation has stopped getting better."""


class Looks:
    """Scores a model on the way, and keeps the best of it.

    Args:
        length: How often to look, and how long to wait for better.
        max_steps: Steps of the whole run.
        score: Score on validation data, higher is better.
    """

    def __init__(self, length: Length, max_steps: int, score: Score) -> None:
        self.patience, self.score = length.patience, score
        places = range(1, length.looks + 1)
        self.places = {round(max_steps * place / length.looks) for place in places}
        self.curve: list[tuple[int, float]] = []
        self._best: dict[str, Tensor] = {}

    def __call__(self, step: int, model: nn.Module) -> None:
        """Look, if it is time.

        Raises:
            Plateau: If patience is at an end.
        """
        if step not in self.places:
            return
        was_training = model.training
        value = self.score(model.eval())
        model.train(was_training)
        self.curve.append((step, value))
        if self.patience is None:
            return
        if self._best_place() == len(self.curve) - 1:
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            self._best = {name: p.detach().clone() for name, p in trained.items()}
        if len(self.curve) - 1 - self._best_place() >= self.patience:
            raise Plateau

    def restore(self, model: nn.Module) -> int:
        """Give a model back the weights of its best look, and return the step of it."""
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in self._best.items():
                parameters[name].copy_(value)
        return self.curve[self._best_place()][0]

    def _best_place(self) -> int:
        values = [value if isfinite(value) else float("-inf") for _, value in self.curve]
        return values.index(max(values))
