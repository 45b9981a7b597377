"""Schematics: one drawing a chapter that shows where the new numbers sit."""

from typing import TYPE_CHECKING

from course_utils.show.schematics import layers, systems
from course_utils.validation import check_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DRAWINGS = {
    "course": systems.course,
    "frozen": layers.frozen,
    "lora": layers.lora,
    "qlora": layers.qlora,
    "dora": layers.dora,
    "bottleneck": layers.bottleneck,
    "prefix": systems.prefix,
    "chat_loss": systems.chat_loss,
    "reward_model": systems.reward_model,
    "rlhf": systems.rlhf,
    "libraries": systems.libraries,
}


def drawing_names() -> tuple[str, ...]:
    """Return the names of the drawings, in the order of the chapters."""
    return tuple(_DRAWINGS)


def draw(name: str) -> "Axes":
    """Draw a chapter's schematic.

    In every drawing what trains is filled, what is frozen is a hollow grey box, and data is
    rounded. The figure's ``alt`` says the same in words.

    Args:
        name: One of :func:`drawing_names`.

    Returns:
        The axes of a figure of its own.

    Raises:
        ValueError: If there is no such drawing; the message lists all.
    """
    check_choice("drawing", name, _DRAWINGS)
    return _DRAWINGS[name]().ax
