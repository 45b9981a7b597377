"""Task sets and a learner's own data, made ready for a model: encoded, padded, or packed."""

from course_utils.data.batches import (
    BUCKET_BATCHES,
    Batch,
    Example,
    PackedRows,
    batch_order,
    count_targets,
    lengths_of,
    pack_examples,
    pad_examples,
    pad_packed,
)
from course_utils.data.chat import alpaca_prompt, chat_prompt
from course_utils.data.encode import (
    IGNORED,
    encode_answer,
    encode_instruction,
    encode_label,
    encode_text,
    encode_word_labels,
)
from course_utils.data.files import read_jsonl
from course_utils.data.lengths import LengthStatistics, length_statistics
from course_utils.data.own import load_own
from course_utils.data.pairs import (
    encode_pair,
    encode_preference,
    join_pair,
    pair_batch,
    pair_scores,
)
from course_utils.data.tasks import load_task, split_names, task_names

__all__ = [
    "BUCKET_BATCHES",
    "IGNORED",
    "Batch",
    "Example",
    "LengthStatistics",
    "PackedRows",
    "alpaca_prompt",
    "batch_order",
    "chat_prompt",
    "count_targets",
    "encode_answer",
    "encode_instruction",
    "encode_label",
    "encode_pair",
    "encode_preference",
    "encode_text",
    "encode_word_labels",
    "join_pair",
    "length_statistics",
    "lengths_of",
    "load_own",
    "load_task",
    "pack_examples",
    "pad_examples",
    "pad_packed",
    "pair_batch",
    "pair_scores",
    "read_jsonl",
    "split_names",
    "task_names",
]
