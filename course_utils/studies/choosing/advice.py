"""The choice: which methods are left, in which order, which one is taken, and how sure that is."""

from dataclasses import dataclass, replace
from typing import Any

from course_utils.memory.cards import CUDA_CONTEXT_BYTES, FRAGMENTATION
from course_utils.memory.parts import format_bytes
from course_utils.studies.choosing.cost import PEAK_ERROR, Cost, Speed, cost_of, speed_of
from course_utils.studies.choosing.evidence import (
    CAVEAT,
    TIE_SHARE,
    Band,
    Standing,
    band_of,
    compare,
)
from course_utils.studies.choosing.options import OPTIONS, Option, cell
from course_utils.studies.choosing.request import Request
from course_utils.studies.choosing.rules import Reason, reasons_against

TAKEN, TIED, BEHIND = "taken", "cannot be told apart", "worse"
ERRATIC, UNRECORDED, OUT = "too few runs to judge", "not recorded", "out"


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """A method, judged for a request.

    Args:
        option: The method.
        cost: What it costs.
        band: What it reached on the recorded task; None if that was not recorded.
        reasons: Why it fell out; none if it did not.
        standing: Its place among those that are left.
    """

    option: Option
    cost: Cost
    band: Band | None
    reasons: tuple[Reason, ...]
    standing: str = OUT

    @property
    def simplicity(self) -> tuple[int, int]:
        """Trained numbers, then moving parts: the smaller, the simpler."""
        return self.cost.n_trained, self.option.n_parts

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON and for a table."""
        band = self.band
        return {
            "method": self.option.label,
            "name": self.option.name,
            "standing": self.standing,
            "trained": self.cost.n_trained,
            "peak_bytes": self.cost.peak_bytes,
            "is_checkpointed": self.cost.is_checkpointed,
            "hours": self.cost.hours,
            "quality": None if band is None else _quality(band),
            "shown_by": str(self.option.shown_by),
            "reasons": [
                {"rule": r.rule, "words": r.words, "shown_by": str(r.shown_by)}
                for r in self.reasons
            ],
        }


def _quality(band: Band) -> dict[str, Any]:
    names = ("metric", "base", "mean", "low", "high", "n_seeds", "recorded_as", "recall_lost")
    return {name: getattr(band, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What :func:`choose` returns.

    Args:
        request: What was asked.
        left: Methods that are left, the one to take first.
        out: Methods that fell out, each with its reasons.
        verdict: What to take, and how sure that is, in words.
        notes: What the numbers rest on.
    """

    request: Request
    left: tuple[Assessment, ...]
    out: tuple[Assessment, ...]
    verdict: str
    notes: tuple[str, ...]

    @property
    def taken(self) -> Assessment | None:
        """The method to take; None if none is left."""
        return self.left[0] if self.left else None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "model": self.request.architecture.name,
            "room_bytes": self.request.room_bytes,
            "task": self.request.task.name,
            "taken": self.taken.option.name if self.taken else None,
            "verdict": self.verdict,
            "left": [assessment.as_dict() for assessment in self.left],
            "out": [assessment.as_dict() for assessment in self.out],
            "notes": list(self.notes),
        }


def choose(request: Request) -> Advice:
    """Rank the methods that a request leaves; take the simplest of those that cannot be separated.

    The best of the recorded means is compared with every other, paired by seed and corrected for
    being several (:func:`~course_utils.studies.choosing.evidence.compare`). Of those that are not
    told apart from it, and whose means are near, the one that trains fewest numbers is taken.

    Raises:
        ValueError: If the model is unknown or its family not covered.
    """
    speed = speed_of(request)
    judged = [_judge(option, request, speed) for option in OPTIONS.values()]
    left = [assessment for assessment in judged if not assessment.reasons]
    standing = compare({a.option.name: a.band for a in left if a.band is not None})
    ranked = _ranked(left, standing)
    return Advice(
        request=request,
        left=ranked,
        out=tuple(assessment for assessment in judged if assessment.reasons),
        verdict=_verdict(ranked, standing, judged),
        notes=_notes(request, speed) + _price_of_merging(request, ranked),
    )


def _judge(option: Option, request: Request, speed: Speed) -> Assessment:
    cost, band = cost_of(option, request, speed), band_of(option, request.task.name)
    reasons = tuple(reasons_against(option, request, cost, band))
    return Assessment(option=option, cost=cost, band=band, reasons=reasons)


def _ranked(left: list[Assessment], standing: Standing | None) -> tuple[Assessment, ...]:
    """Give each its place: the taken, the tied, the others by their means, the unrecorded last."""
    if not left:
        return ()
    words = dict.fromkeys((a.option.name for a in left), UNRECORDED)
    if standing is not None:
        words |= dict.fromkeys(standing.tied, TIED)
        words |= dict.fromkeys(standing.behind, BEHIND) | dict.fromkeys(standing.erratic, ERRATIC)
    first = UNRECORDED if standing is None else TIED
    taken = min((a for a in left if words[a.option.name] == first), key=lambda a: a.simplicity)
    words[taken.option.name] = TAKEN
    groups = {TAKEN: 0, TIED: 1}

    def place(a: Assessment) -> tuple[Any, ...]:
        group = groups.get(words[a.option.name], 2 if a.band else 3)
        return group, -a.band.mean if a.band else 0.0, a.simplicity

    placed = sorted(left, key=place)
    return tuple(replace(a, standing=words[a.option.name]) for a in placed)


def _verdict(
    ranked: tuple[Assessment, ...], standing: Standing | None, judged: list[Assessment]
) -> str:
    if not ranked:
        smallest = min(judged, key=lambda a: a.cost.peak_bytes)
        peak = format_bytes(smallest.cost.peak_bytes)
        return f"No method is left. {smallest.option.label} has the smallest peak: {peak}."
    if standing is None:
        words = f"No recorded run ranks what is left: take {ranked[0].option.label}, the simplest."
    else:
        words = _taken_and_tied(ranked, standing)
    return " ".join(filter(None, (words, _others(ranked), _price(ranked[0], judged))))


def _taken_and_tied(ranked: tuple[Assessment, ...], standing: Standing) -> str:
    """Say what is taken, and what it could not be told apart from."""
    taken = ranked[0].option.label
    labels = {a.option.name: a.option.label for a in ranked}
    best, *tied = (labels[name] for name in standing.tied)
    if tied:
        first = (
            f"{best} has the best mean, and the records cannot tell it apart from "
            f"{', '.join(tied)}: take {taken}, the simplest of them."
        )
    elif standing.behind or standing.erratic:
        first = f"Take {taken}: its recorded runs are ahead."
    else:
        first = f"Take {taken}: of those left, it alone has recorded runs."
    if not standing.erratic:
        return first
    erratic = ", ".join(labels[name] for name in standing.erratic)
    return (
        f"{first} Too few runs to be sure of {erratic}: not told apart from {best}, with means "
        f"lower by more than {TIE_SHARE:.0%} of its gain."
    )


def _others(ranked: tuple[Assessment, ...]) -> str:
    """Count those left that no sentence named."""
    words = {
        BEHIND: "shown to be worse",
        UNRECORDED: "not recorded on data of this kind",
    }
    counts = {place: sum(a.standing == place for a in ranked[1:]) for place in words}
    told = [f"{n} {words[place]}" for place, n in counts.items() if n]
    return f"Of the others left: {'; '.join(told)}." if told else ""


def _price(taken: Assessment, judged: list[Assessment]) -> str:
    """Say what the rules cost: whether the best of what fell out is shown to be better."""
    out = [a for a in judged if a.reasons and a.band is not None]
    if taken.band is None or not out:
        return ""
    best = max(out, key=lambda a: a.band.mean)
    found = compare({"taken": taken.band, "out": best.band})
    if "taken" not in found.behind:
        return ""
    return (
        f"The rules have a price: {best.option.label} fell out, and reached "
        f"{best.band.mean:.2f} against {taken.band.mean:.2f}."
    )


def _notes(request: Request, speed: Speed) -> tuple[str, ...]:
    bits = 32 if request.is_here else 16
    context = "" if request.is_here else f", {format_bytes(CUDA_CONTEXT_BYTES)} for CUDA's context"
    return (
        CAVEAT,
        f"Peaks are predicted within {PEAK_ERROR:.0%}, for {bits} bits, AdamW and "
        f"{request.batch_size} x {request.tokens_per_example} tokens a pass. Set aside of "
        f"{request.total_gb:.0f} GB{context} and {FRAGMENTATION:.0%} for gaps.",
        f"Hours are an estimate, {speed.source}.",
        f"The recorded task is {request.task.name} ({request.task.metric}), trained on "
        f"{len(request.task.load('train')):,} examples; yours are {request.n_examples:,}.",
    )


def _price_of_merging(request: Request, ranked: tuple[Assessment, ...]) -> tuple[str, ...]:
    """Say what becomes of four bits when the taken method is merged."""
    if not (request.must_merge and ranked and ranked[0].option.is_quantized):
        return ()
    return (
        "Merged, the four-bit base becomes one of 16 bits again; rounded anew it would lose some: "
        f"{cell(3, 'merge')}.",
    )
