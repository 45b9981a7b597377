"""Cards, what they hold and how fast they multiply, and the part of them that no step gets.

Memory is the one that a card is sold with, in GB of 1e9 bytes; drivers show a little more. Speeds
are the makers' for dense products of 16-bit matrices with sums in float32 (NVIDIA's data sheets and
white papers: Turing, Ampere, Ada, Hopper). No training step comes near them.
"""

from dataclasses import dataclass

from course_utils.validation import check_choice, check_number, check_text

GB = 10**9
# What the driver and the libraries take before the first tensor: "some hundred megabytes".
CUDA_CONTEXT_BYTES = 600_000_000
# Share of a card that gaps between tensors make useless: an assumption, not a measurement.
FRAGMENTATION = 0.05


@dataclass(frozen=True, kw_only=True)
class Card:
    """A graphics card.

    Args:
        name: What it is called.
        memory_gb: Its memory, in GB of 1e9 bytes.
        tflops: 1e12 operations a second of dense 16-bit products, as the maker states them.
    """

    name: str
    memory_gb: int
    tflops: float

    def __str__(self) -> str:
        return f"{self.name} ({self.memory_gb} GB)"


CARDS = {
    "T4": Card(name="T4", memory_gb=16, tflops=65),
    "L4": Card(name="L4", memory_gb=24, tflops=121),
    "RTX-3090": Card(name="RTX 3090", memory_gb=24, tflops=71),
    "RTX-4090": Card(name="RTX 4090", memory_gb=24, tflops=165),
    "A100-40": Card(name="A100", memory_gb=40, tflops=312),
    "A100-80": Card(name="A100", memory_gb=80, tflops=312),
    "H100": Card(name="H100", memory_gb=80, tflops=989),
    "H200": Card(name="H200", memory_gb=141, tflops=989),
}


def find_card(name: str) -> Card:
    """Return a card by its name in ``CARDS``, in small letters or capitals.

    Raises:
        ValueError: If there is none; the message lists the known ones.
    """
    check_text("card", name)
    known = {key.lower(): key for key in CARDS}.get(name.lower(), name)
    check_choice("card", known, CARDS)
    return CARDS[known]


def usable_bytes(memory_gb: float, *, is_card: bool = True) -> float:
    """Return what of a memory tensors can have: without CUDA's context, gaps set aside.

    Args:
        memory_gb: The memory, in GB of 1e9 bytes.
        is_card: Whether it is a graphics card's, which holds a context.

    Raises:
        ValueError: If the memory is no finite number above 0.
    """
    check_number("memory_gb", memory_gb, above=0)
    context = CUDA_CONTEXT_BYTES if is_card else 0
    return max(0.0, memory_gb * GB * (1 - FRAGMENTATION) - context)
