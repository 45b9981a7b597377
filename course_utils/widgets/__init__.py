"""Widgets to play with: each is a picture and a sentence too, where no widget can be shown.

What a widget computes is in plain functions. The interface is common to ipywidgets 7.7 and 8.
"""

from course_utils.widgets.base import Explorer, Interactive
from course_utils.widgets.direction_explorer import (
    DirectionExplorer,
    degrees,
    direction_explorer,
    set_magnitude,
)
from course_utils.widgets.next_token import NextTokenExplorer, next_token_explorer, next_tokens
from course_utils.widgets.nf4_explorer import (
    NF4Explorer,
    divide_by_absmax,
    make_outliers,
    nf4_explorer,
)
from course_utils.widgets.rank_explorer import RankExplorer, rank_explorer, ranks_up_to, rebuild
from course_utils.widgets.will_it_fit import WillItFit, verdict, will_it_fit

__all__ = [
    "DirectionExplorer",
    "Explorer",
    "Interactive",
    "NF4Explorer",
    "NextTokenExplorer",
    "RankExplorer",
    "WillItFit",
    "degrees",
    "direction_explorer",
    "divide_by_absmax",
    "make_outliers",
    "next_token_explorer",
    "next_tokens",
    "nf4_explorer",
    "rank_explorer",
    "ranks_up_to",
    "rebuild",
    "set_magnitude",
    "verdict",
    "will_it_fit",
]
