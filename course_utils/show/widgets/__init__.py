"""Widgets to play with: each is a picture and a sentence too, where no widget can be shown.

What a widget computes is in plain functions. The interface is common to ipywidgets 7.7 and 8.
"""

from course_utils.show.widgets.adapter_explorer import (
    AdapterAnatomy,
    AdapterExplorer,
    adapter_explorer,
)
from course_utils.show.widgets.base import Explorer, Interactive
from course_utils.show.widgets.clip_explorer import ClipExplorer, clip_explorer, clipped_surrogate
from course_utils.show.widgets.direction_explorer import (
    DirectionExplorer,
    degrees,
    direction_explorer,
    set_magnitude,
)
from course_utils.show.widgets.loss_mask_explorer import (
    LossMaskExplorer,
    MaskedToken,
    loss_mask_explorer,
    mask_tokens,
)
from course_utils.show.widgets.next_token import NextTokenExplorer, next_token_explorer, next_tokens
from course_utils.show.widgets.nf4_explorer import (
    NF4Explorer,
    divide_by_absmax,
    make_outliers,
    nf4_explorer,
)
from course_utils.show.widgets.prefix_explorer import (
    AttentionMap,
    PrefixExplorer,
    attention_maps,
    prefix_explorer,
)
from course_utils.show.widgets.rank_explorer import (
    RankExplorer,
    rank_explorer,
    ranks_up_to,
    rebuild,
)
from course_utils.show.widgets.reward_explorer import RewardExplorer, preference, reward_explorer
from course_utils.show.widgets.will_it_fit import WillItFit, verdict, will_it_fit

__all__ = [
    "AdapterAnatomy",
    "AdapterExplorer",
    "AttentionMap",
    "ClipExplorer",
    "DirectionExplorer",
    "Explorer",
    "Interactive",
    "LossMaskExplorer",
    "MaskedToken",
    "NF4Explorer",
    "NextTokenExplorer",
    "PrefixExplorer",
    "RankExplorer",
    "RewardExplorer",
    "WillItFit",
    "adapter_explorer",
    "attention_maps",
    "clip_explorer",
    "clipped_surrogate",
    "degrees",
    "direction_explorer",
    "divide_by_absmax",
    "loss_mask_explorer",
    "make_outliers",
    "mask_tokens",
    "next_token_explorer",
    "next_tokens",
    "nf4_explorer",
    "preference",
    "prefix_explorer",
    "rank_explorer",
    "ranks_up_to",
    "rebuild",
    "reward_explorer",
    "set_magnitude",
    "verdict",
    "will_it_fit",
]
