"""What somebody who must choose a method says of the model, the machine, the data and the rules."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from course_utils.memory.architecture import Architecture, architecture_of, known_architectures
from course_utils.memory.cards import CARDS, GB, find_card, usable_bytes
from course_utils.models.hub import damaged_json, find_file
from course_utils.models.loading import embedded_model_dir
from course_utils.models.profiles import EMBEDDED, PINNED_REVISIONS
from course_utils.studies.runner import ALL_TASKS
from course_utils.studies.tasks import Task
from course_utils.validation import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_text,
    keep_plain,
    shown,
)

# Kinds of data, and the recorded task that is most like each.
KINDS = {
    "topics": "topics",
    "sentiment": "sentiment",
    "words": "roles",
    "facts": "new_facts",
    "style": "dialect",
    "instructions": "instructions",
    "preferences": "preferences",
}
HERE = "here"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A model, a machine, data and rules.

    Args:
        model: A known architecture, ``"embedded"``, a folder with a config.json, or the Hub id of a
            model whose config.json is in the cache.
        kind: What the data are like: one of ``KINDS``.
        n_examples: How many there are.
        card: A card of ``memory.cards.CARDS``, or ``"here"``: this machine's processor.
        memory_gb: Memory in place of a card, in GB of 1e9 bytes.
        tokens_per_example: Tokens of an example, padding included; of both answers of a pair.
        epochs: How often each is seen.
        batch_size: Examples that go through the model at once; gradients add up over several.
        deadline_hours: Longest training allowed; None for no limit.
        tokens_per_second: Measured speed of LoRA, rank 8, on this model and machine, if known.
        must_merge: The result must be a plain model.
        many_tasks: One base must serve many tasks.
        must_not_forget: What the model knew must stay.
        on_device: It runs on a small device: nothing may be added to inference.

    Raises:
        ValueError: If a value is out of range or unknown, or there is not one memory.
    """

    model: str
    kind: str
    n_examples: int
    card: str | None = None
    memory_gb: float | None = None
    tokens_per_example: int = 512
    epochs: float = 3.0
    batch_size: int = 1
    deadline_hours: float | None = None
    tokens_per_second: float | None = None
    must_merge: bool = False
    many_tasks: bool = False
    must_not_forget: bool = False
    on_device: bool = False

    def __post_init__(self) -> None:
        keep_plain(self)
        check_text("model", self.model)
        check_choice("kind", self.kind, KINDS)
        for name in ("n_examples", "tokens_per_example", "batch_size"):
            check_count(name, getattr(self, name))
        check_number("epochs", self.epochs, above=0)
        for name in ("memory_gb", "deadline_hours", "tokens_per_second"):
            check_number(name, getattr(self, name), above=0, is_none_ok=True)
        for name in ("must_merge", "many_tasks", "must_not_forget", "on_device"):
            check_flag(name, getattr(self, name))
        if (self.card is None) == (self.memory_gb is None):
            raise ValueError(
                f"card={shown(self.card)}, memory_gb={self.memory_gb}: give one of the two"
            )
        if self.card is not None and not self.is_here:
            check_text("card", self.card)
            if self.card.lower() not in {name.lower() for name in CARDS}:
                check_choice("card", self.card, (HERE, *CARDS))
        if self.deadline_hours and self.memory_gb and not self.tokens_per_second:
            raise ValueError(
                f"deadline_hours={self.deadline_hours:g} needs a speed: name a card, or give "
                "tokens_per_second"
            )

    @property
    def is_here(self) -> bool:
        """Whether the machine is this one's processor."""
        return self.card == HERE

    @property
    def dtype(self) -> str:
        """Type of weights and activations: float32 on a processor, else 16 bits."""
        return "float32" if self.is_here else "bfloat16"

    @property
    def total_gb(self) -> float:
        """The machine's memory, in GB of 1e9 bytes."""
        if self.is_here:
            import psutil

            return psutil.virtual_memory().total / GB
        return self.memory_gb if self.card is None else find_card(self.card).memory_gb

    @cached_property
    def room_bytes(self) -> float:
        """What of the memory tensors can have."""
        return usable_bytes(self.total_gb, is_card=not self.is_here)

    @property
    def task(self) -> Task:
        """The recorded task that is most like the data."""
        return ALL_TASKS[KINDS[self.kind]]

    @property
    def n_sequences(self) -> int:
        """Sequences of one example: two for a pair of answers."""
        return 2 if self.kind == "preferences" else 1

    @cached_property
    def architecture(self) -> Architecture:
        """The model's shape, with the head that the data want."""
        return replace(find_architecture(self.model), n_labels=self.task.num_labels)


def find_architecture(model: str) -> Architecture:
    """Return the shape of a model from its name or its config.json; nothing is downloaded.

    Args:
        model: A known architecture, ``"embedded"``, a folder, or a Hub id in the cache.

    Raises:
        ValueError: If there is no such model, its config.json is damaged, or its family unknown.
    """
    if model == EMBEDDED:
        return _read(embedded_model_dir())
    try:
        return architecture_of(model)
    except ValueError as unknown:
        try:
            config = find_file(model, PINNED_REVISIONS.get(model), "config.json")
        except (ValueError, OSError):  # no id that the Hub could have
            config = None
        if config is None:
            raise ValueError(
                f"model={shown(model)} is no folder with a config.json, not in the Hub's cache, "
                f"and must otherwise be one of {EMBEDDED}, {', '.join(known_architectures())}"
            ) from unknown
    return _read(config.parent)


def _read(folder: Path) -> Architecture:
    from transformers import AutoConfig

    if damaged := damaged_json(str(folder), None, ("config.json",)):
        raise ValueError(f"{folder.name} cannot be read: {damaged}")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder.name}: its config.json cannot be read ({reason})") from error
    return architecture_of(config.get_text_config())
