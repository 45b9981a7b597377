"""Where the runs of a study happen: on the processor, or on a card."""

from dataclasses import replace

from course_utils.models.profiles import Profile, current_profile
from course_utils.validation import check_choice

DEVICES = ("cpu", "cuda")


def embedded_on(device: str) -> Profile:
    """Return the profile of the shipped model in float32 on ``cpu`` or ``cuda``.

    Raises:
        ValueError: If there is no such kind of device; RuntimeError of torch if there is no card.
    """
    check_choice("device", device, DEVICES)
    return replace(current_profile({"COURSE_PROFILE": "cpu"}), device=device)
