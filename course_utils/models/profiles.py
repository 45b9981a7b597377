"""Profiles: which model the notebooks load, where it runs, and how long the experiments are.

A notebook asks for :func:`current_profile` once and reads its fields, never its name.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from course_utils.validation import (
    check_choice,
    check_count,
    check_text,
    keep_plain,
    shown,
)

EMBEDDED = "embedded"

PINNED_REVISIONS = {
    "HuggingFaceTB/SmolLM2-135M": "93efa2f097d58c2a74874c7e644dbc9b0cee75a2",
    "Qwen/Qwen3-0.6B": "c1899de289a04d12100db370d81485cdf75e47ca",
    "Qwen/Qwen3-4B": "1cfa9a7208912126459214e8b04321603b3df60c",
    "Qwen/Qwen3-8B": "b968826d9c46dd6066d109eabc6255188de91218",
}
"""Commit of each Hub model that a profile names."""

_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a notebook may know about the machine it runs on.

    Args:
        name: ``cpu``, ``t4`` or ``large``.
        model: ``"embedded"``, a local folder, or a Hub id.
        revision: Pinned commit of a Hub model; None for the embedded model and for folders.
        device: torch device the experiments use.
        dtype: Compute type: ``float32``, ``float16`` or ``bfloat16``.
        batch_size: Sequences a step.
        max_length_tokens: Longest sequence a task is cut to.
        max_steps: Optimizer steps of one live training run.
        seeds: Seeds of the live comparisons.
        four_bit_model: Model that is large enough to be worth four bits a weight.

    Raises:
        ValueError: If ``dtype`` is none of the three, a count is below 1, or a text is none.
    """

    name: str
    model: str
    revision: str | None
    device: str
    dtype: str
    batch_size: int
    max_length_tokens: int
    max_steps: int
    seeds: tuple[int, ...]
    four_bit_model: str = EMBEDDED

    def __post_init__(self) -> None:
        keep_plain(self)
        for field in ("name", "model", "device", "four_bit_model"):
            check_text(field, getattr(self, field))
        if self.revision is not None:
            check_text("revision", self.revision)
        check_choice("dtype", self.dtype, _DTYPES)
        for field in ("batch_size", "max_length_tokens", "max_steps"):
            check_count(field, getattr(self, field))
        if not isinstance(self.seeds, tuple) or not self.seeds:
            raise ValueError(f"seeds={shown(self.seeds)} must be a tuple of at least one seed")
        for seed in self.seeds:
            check_count("seeds", seed, at_least=0)

    @property
    def is_embedded(self) -> bool:
        """Whether the profile's model is the one the course ships."""
        return self.model == EMBEDDED

    def in_four_bits(self) -> "Profile":
        """Return this profile with the model that it trains in four bits."""
        revision = PINNED_REVISIONS.get(self.four_bit_model)
        return replace(self, model=self.four_bit_model, revision=revision)


_PROFILES = {
    "cpu": Profile(
        name="cpu",
        model=EMBEDDED,
        revision=None,
        device="cpu",
        dtype="float32",
        batch_size=16,
        max_length_tokens=128,
        max_steps=100,
        seeds=(0, 1, 2),
    ),
    "t4": Profile(
        name="t4",
        model="HuggingFaceTB/SmolLM2-135M",
        revision=PINNED_REVISIONS["HuggingFaceTB/SmolLM2-135M"],
        device="cuda",
        dtype="float16",
        batch_size=16,
        max_length_tokens=256,
        max_steps=200,
        seeds=(0, 1, 2),
        four_bit_model="Qwen/Qwen3-4B",
    ),
    "large": Profile(
        name="large",
        model="Qwen/Qwen3-0.6B",
        revision=PINNED_REVISIONS["Qwen/Qwen3-0.6B"],
        device="cuda",
        dtype="bfloat16",
        batch_size=32,
        max_length_tokens=512,
        max_steps=400,
        seeds=(0, 1, 2),
        four_bit_model="Qwen/Qwen3-8B",
    ),
}


def profile_names() -> tuple[str, ...]:
    """Return the names ``COURSE_PROFILE`` accepts."""
    return tuple(_PROFILES)


def current_profile(environ: Mapping[str, str] | None = None) -> Profile:
    """Return the profile of this machine.

    ``COURSE_PROFILE`` names it; otherwise it is ``cpu`` without CUDA, ``t4`` on a card older than
    compute capability 8.0 and ``large`` from there on. ``COURSE_MODEL`` (a folder or a Hub id)
    replaces the model. A profile made for a GPU falls back to the CPU, in float32, where there is
    none, so that the same cells can be tried out anywhere.

    Args:
        environ: Environment to read; ``os.environ`` by default.

    Raises:
        ValueError: If ``COURSE_PROFILE`` names no profile.
    """
    environ = os.environ if environ is None else environ
    name = environ.get("COURSE_PROFILE", "").strip() or _detect()
    check_choice("COURSE_PROFILE", name, profile_names())
    profile = _PROFILES[name]
    model = environ.get("COURSE_MODEL", "").strip()
    if model:
        revision = PINNED_REVISIONS.get(model)
        profile = replace(profile, model=model, revision=revision, four_bit_model=model)
    if profile.device == "cuda" and not _has_cuda():
        profile = replace(profile, device="cpu", dtype="float32")
    return profile


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _detect() -> str:
    if not _has_cuda():
        return "cpu"
    import torch

    # A T4 emulates bfloat16 and says that it supports it (pytorch#148322): ask for the hardware.
    return "large" if torch.cuda.get_device_capability() >= (8, 0) else "t4"
