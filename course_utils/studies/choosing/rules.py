"""Why a method falls out: memory, deadline and what was asked of the result."""

from collections.abc import Iterator
from dataclasses import dataclass

from course_utils.memory.parts import format_bytes
from course_utils.studies.choosing.cost import PEAK_ERROR, Cost
from course_utils.studies.choosing.evidence import Band
from course_utils.studies.choosing.options import Cell, Option, cell
from course_utils.studies.choosing.request import Request

# Share of the facts it knew that a model may lose where nothing may be forgotten.
FORGETTING_LIMIT = 0.1


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a method fell out.

    Args:
        rule: Name of the rule.
        words: The numbers, in a sentence.
        shown_by: The cell that shows what the rule rests on.
    """

    rule: str
    words: str
    shown_by: Cell


def reasons_against(
    option: Option, request: Request, cost: Cost, band: Band | None
) -> Iterator[Reason]:
    """Yield every rule of the request that a method breaks."""
    if not cost.fits:
        sizes = (cost.peak_bytes, cost.peak_bytes * (1 + PEAK_ERROR), request.room_bytes)
        peak, at_most, room = map(format_bytes, sizes)
        words = f"{peak} at the peak, {at_most} with its error; {room} can be used"
        yield Reason(rule="memory", words=words, shown_by=cell(0, "estimate"))
    limit = request.deadline_hours
    if limit is not None and (cost.hours is None or cost.hours > limit):
        words = f"an estimated {cost.hours:.3g} hours of {limit:g}"
        yield Reason(rule="deadline", words=words, shown_by=cell(1, "seconds"))
    if request.must_merge and not option.can_merge:
        words = "what it adds cannot be merged into the weights"
        yield Reason(rule="must merge", words=words, shown_by=option.kept_by)
    if request.on_device and not option.can_merge:
        is_prompt = option.kept_by.notebook.startswith("06")
        yield Reason(
            rule="on device",
            words="what it adds costs time or memory at every inference",
            shown_by=cell(6 if is_prompt else 5, "latency"),
        )
    if request.many_tasks and not option.shares_base:
        words = "it changes the base itself: every task would want a base of its own"
        yield Reason(rule="many tasks", words=words, shown_by=cell(2, "switching"))
    if request.must_not_forget and (band is None or band.recall_lost > FORGETTING_LIMIT):
        lost = "no recorded run says what it forgets on data of this kind"
        if band is not None:
            lost = f"it lost {band.recall_lost:.0%} of the facts, more than {FORGETTING_LIMIT:.0%}"
        yield Reason(rule="must not forget", words=lost, shown_by=cell(1, "facts-left"))
