"""The parts of a training step's memory: the same for an estimate and for a measurement."""

from dataclasses import dataclass

from course_utils.validation import check_choice, check_number

FLOAT32_BYTES = 4

_UNITS = ("B", "KB", "MB", "GB", "TB")
_DTYPE_BYTES = {"float32": FLOAT32_BYTES, "float16": 2, "bfloat16": 2}


def dtype_bytes(dtype: str) -> int:
    """Return the bytes an element of ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        ValueError: If the type is none of these.
    """
    check_choice("dtype", dtype, _DTYPE_BYTES)
    return _DTYPE_BYTES[dtype]


def format_bytes(n_bytes: float) -> str:
    """Return a number of bytes with three digits and a decimal unit: ``13.5 GB``.

    Raises:
        ValueError: If it is no finite number, at least 0.
    """
    check_number("n_bytes", n_bytes, at_least=0)
    size, unit = float(n_bytes), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    digits = 0 if unit == 0 else max(0, 2 - (size >= 9.995) - (size >= 99.95))
    return f"{size:.{digits}f} {_UNITS[unit]}"


@dataclass(frozen=True, kw_only=True)
class MemoryParts:
    """Bytes of one training step, by what they are for.

    Args:
        weights_bytes: The model's parameters, trained or not, and what the method adds.
        gradients_bytes: One gradient a trained parameter.
        optimizer_bytes: What the optimizer keeps between steps, wherever it lies.
        layers_bytes: What the forward pass keeps for the backward pass, one entry a block.
        recomputed_bytes: With gradient checkpointing, what the backward pass makes again for one
            block at a time.
        outer_bytes: Kept outside the blocks: final norm, head input, rotary tables, targets.
        logits_bytes: Logits, log-probabilities and their gradients where they are largest.
        peak_bytes: The most that is held at any one moment of a step.
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    layers_bytes: tuple[int, ...]
    recomputed_bytes: int
    outer_bytes: int
    logits_bytes: int
    peak_bytes: int

    @property
    def activations_bytes(self) -> int:
        """Everything kept or made again for the backward pass, the logits aside."""
        return sum(self.layers_bytes) + self.recomputed_bytes + self.outer_bytes

    @property
    def total_bytes(self) -> int:
        """The sum of the parts.

        More than the peak, as a rule: gradients appear while activations go. With accumulated
        gradients all parts are there at once.
        """
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Return the bytes of each of the five parts, by name."""
        return {
            "weights": self.weights_bytes,
            "gradients": self.gradients_bytes,
            "optimizer": self.optimizer_bytes,
            "activations": self.activations_bytes,
            "logits": self.logits_bytes,
        }

    def rows(self) -> list[tuple[str, int]]:
        """Return the parts as (name, bytes), then their sum and the peak, for a table."""
        return [
            *self.parts().items(),
            ("sum of the parts", self.total_bytes),
            ("peak", self.peak_bytes),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<17}{format_bytes(size):>9}" for name, size in self.rows())
