"""The methods that can be chosen: what each trains, what it can do, and the cell that shows it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from course_utils.memory.architecture import Architecture
from course_utils.memory.trained import Footprint
from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.full import FrozenFineTuning, FullFineTuning
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig, PTuningV2Config
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.studies.candidates import RANKS

# NF4 with double quantisation (arXiv:2305.14314, section 3).
NF4_BITS = 4.127


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a chapter, by its tag."""

    notebook: str
    tag: str

    def __str__(self) -> str:
        return f"{self.notebook}#{self.tag}"


@dataclass(frozen=True, kw_only=True)
class Option:
    """A method that can be chosen.

    Args:
        name: Its name among ``studies.CANDIDATES``, and in the records.
        label: What a reader calls it.
        method: Its configuration, which says what it trains.
        shown_by: The cell that shows how well it does.
        n_parts: Things that it adds to plain training and that can go wrong: an added module, a
            second way of training it, a network, quantised weights.
        kept_by: The cell that shows what stays at inference and cannot be merged; None if nothing.
        shares_base: Whether the base stays as it is, so that many tasks can share it.
        is_quantized: Whether the frozen matrices are stored in NF4.
        stand_ins: Names whose records stand in for it where it has none, the nearest first.
    """

    name: str
    label: str
    method: Footprint
    shown_by: Cell
    n_parts: int = 1
    kept_by: Cell | None = None
    shares_base: bool = True
    is_quantized: bool = False
    stand_ins: tuple[str, ...] = ()

    @property
    def can_merge(self) -> bool:
        """Whether the result can be a plain model."""
        return self.kept_by is None

    def method_for(self, architecture: Architecture) -> Footprint:
        """Return its configuration; the new head of a classifier trains with frozen layers."""
        is_classifier = architecture.n_labels is not None
        if isinstance(self.method, FrozenFineTuning) and is_classifier:
            return replace(self.method, train_head=True)
        return self.method


_NOTEBOOKS = {
    0: "00_start_here.ipynb",
    1: "01_full_and_frozen.ipynb",
    2: "02_lora.ipynb",
    3: "03_qlora_and_nf4.ipynb",
    4: "04_dora_and_family.ipynb",
    5: "05_adapters.ipynb",
    6: "06_prompts_and_prefixes.ipynb",
}


def cell(chapter: int, tag: str) -> Cell:
    """Return the cell of a chapter whose tag is ``evidence-`` and the given words."""
    return Cell(notebook=_NOTEBOOKS[chapter], tag=f"evidence-{tag}")


def _frozen() -> Iterable[Option]:
    shown = {"shown_by": cell(1, "parameters"), "n_parts": 0}
    norms = FrozenFineTuning(train_norms=True, train_head=False)
    last = FrozenFineTuning(last_n_layers=2, train_head=False)
    yield Option(name="head", label="head only", method=FrozenFineTuning(), **shown)
    yield Option(name="norms", label="norms only", method=norms, **shown)
    yield Option(name="last_layers", label="last 2 layers", method=last, shares_base=False, **shown)
    yield Option(
        name="full", label="full fine-tuning", method=FullFineTuning(), shares_base=False, **shown
    )


def _low_rank() -> Iterable[Option]:
    for r in RANKS:
        method = LoRAConfig(rank=r, alpha=2 * r)
        shown_by = cell(2, "rank-tasks")
        yield Option(name=f"lora_r{r}", label=f"LoRA r={r}", method=method, shown_by=shown_by)
    lora, dora = LoRAConfig(rank=8, alpha=16), DoRAConfig(rank=8, alpha=16)
    told, four_bits = cell(4, "told-apart"), cell(4, "small-and-four-bits")
    yield Option(name="dora_r8", label="DoRA r=8", method=dora, n_parts=2, shown_by=told)
    yield Option(
        name="qlora",
        label="QLoRA r=8",
        method=lora,
        n_parts=2,
        is_quantized=True,
        shown_by=cell(3, "quality"),
        stand_ins=("lora_r8", "lora_r4", "lora_r2"),
    )
    yield Option(
        name="qdora",
        label="QDoRA r=8",
        method=dora,
        n_parts=3,
        is_quantized=True,
        shown_by=four_bits,
    )
    yield Option(
        name="pissa",
        label="PiSSA r=8",
        method=lora,
        n_parts=2,
        shares_base=False,
        shown_by=cell(4, "family"),
    )
    dylora, nola = DyLoRAConfig(rank=8, alpha=4), NOLAConfig(rank=8, alpha=16, n_bases=64)
    shown_by = cell(4, "dylora")
    yield Option(name="dylora", label="DyLoRA r=8", method=dylora, n_parts=2, shown_by=shown_by)
    yield Option(name="nola", label="NOLA r=8", method=nola, n_parts=2, shown_by=cell(4, "nola"))


def _adapters() -> Iterable[Option]:
    stays = cell(5, "fold")
    for size in (4, 16):
        yield Option(
            name=f"bottleneck_m{size}",
            label=f"adapters m={size}",
            method=BottleneckConfig(bottleneck_size=size),
            kept_by=stays,
            shown_by=cell(5, "equal"),
        )
    yield Option(
        name="pfeiffer_m16",
        label="Pfeiffer adapter m=16",
        method=BottleneckConfig(bottleneck_size=16, placement="pfeiffer"),
        kept_by=stays,
        shown_by=cell(5, "placement"),
    )


def _prompts() -> Iterable[Option]:
    shown = {"kept_by": cell(6, "trained-and-kept"), "shown_by": cell(6, "three-tasks")}
    n = {"num_virtual_tokens": 16}
    prefix = PrefixTuningConfig(**n, projection=True)
    yield Option(
        name="prompt_n16", label="prompt tuning n=16", method=PromptTuningConfig(**n), **shown
    )
    yield Option(
        name="p_tuning_n16", label="P-tuning n=16", method=PTuningConfig(**n), n_parts=2, **shown
    )
    yield Option(name="prefix_n16", label="prefix tuning n=16", method=prefix, n_parts=2, **shown)
    yield Option(
        name="p_tuning_v2_n16", label="P-tuning v2 n=16", method=PTuningV2Config(**n), **shown
    )


OPTIONS = {
    option.name: option for group in (_frozen, _low_rank, _adapters, _prompts) for option in group()
}
