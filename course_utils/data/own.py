"""A learner's own data, with the columns that the course's task sets have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from course_utils.data.files import Placed, is_hub_id, is_plain_text, read_file, read_hub

if TYPE_CHECKING:
    from datasets import Dataset

ASKED = ("instruction", "prompt", "question", "query")
# For each kind its columns, and the names that a column is known by, the likeliest first.
KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "instructions": {
        "instruction": ASKED,
        "input": ("input", "context"),
        "output": ("output", "response", "answer", "completion"),
    },
    "preferences": {
        "prompt": ("prompt", *ASKED),
        "chosen": ("chosen",),
        "rejected": ("rejected",),
    },
    "prompts": {"prompt": ("prompt", *ASKED)},
    "texts": {"text": ("text", "content", "document")},
}
OPTIONAL = ("input",)


def load_own(
    source: str | Path,
    kind: Literal["instructions", "preferences", "prompts", "texts"],
    *,
    fields: Mapping[str, str] | None = None,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> "Dataset":
    """Load a learner's own data: all of it, or nothing and a sentence that names the bad row.

    Chats (``messages``, or lists of turns as prompt or answers) give their prompt and answer; a
    system turn goes before the user's. Blank texts of a corpus part documents and are left out, as
    in ``load_own("Salesforce/wikitext", "texts", config="wikitext-2-raw-v1")``.

    Args:
        source: A .jsonl, .csv or .tsv file; for texts also a .txt, .md or .raw file, its documents
            parted by blank lines; or the id of a data set of the Hub.
        kind: ``instructions`` (instruction, input, output), ``preferences`` (prompt, chosen,
            rejected), ``prompts`` (prompt) or ``texts`` (text).
        fields: Which column of the source each column, or ``messages``, is; the others are guessed
            from common names.
        config: Configuration of a data set of the Hub.
        split: Split of a data set of the Hub, such as ``train[:1000]``.
        revision: Commit or branch of a data set of the Hub.

    Returns:
        A data set with the columns of ``kind``.

    Raises:
        FileNotFoundError: If there is no such file, or no such data set on the Hub.
        ConnectionError: If the Hub cannot be reached.
        ValueError: If a row is bad, a column is not found, or an argument is none of the above.
    """
    from datasets import Dataset

    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
    fields = dict(fields or {})
    if unknown := sorted(set(fields) - {*KINDS[kind], "messages"}):
        names = ", ".join(KINDS[kind])
        raise ValueError(f"fields names {unknown[0]!r}, which is none of {names}, messages")
    if is_hub_id(source):
        rows = read_hub(str(source), config=config, split=split, revision=revision)
    elif kind != "texts" and is_plain_text(Path(source)):
        raise ValueError(f"{source} is plain text: {kind} are rows of a .jsonl, .csv or .tsv file")
    else:
        rows = read_file(Path(source).expanduser())
    return Dataset.from_list(_in_shape(str(source), rows, kind, fields))


def _in_shape(
    source: str, rows: Sequence[Placed], kind: str, fields: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the rows with the columns of ``kind``, each value checked."""
    present = list(dict.fromkeys(name for _, row in rows for name in row))
    listed = f"(columns: {', '.join(map(str, present))})"
    for name in fields.values():
        if name not in present:
            raise ValueError(f"{source} has no column {name!r} {listed}")
    rows = [(place, _renamed(row, fields)) for place, row in rows]
    if kind != "texts":
        rows = [(place, _without_chats(place, row)) for place, row in rows]
    columns = _guess_columns(rows, kind)
    for column, name in columns.items():
        if name is None and column not in OPTIONAL:
            raise ValueError(
                f"no column of {source} looks like {column} {listed}: name it, as in "
                f"fields={{{column!r}: {present[0]!r}}}"
            )
    if kind == "texts":
        rows = [(place, row) for place, row in rows if not _is_blank(row.get(columns["text"]))]
    if not rows:
        raise ValueError(f"{source} holds only blank texts")
    return [
        {column: _checked_text(place, row, column, name) for column, name in columns.items()}
        for place, row in rows
    ]


def _renamed(row: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """Return a row whose columns bear the names that the learner gave them."""
    named = {column: row[name] for column, name in fields.items() if name in row}
    taken = {*fields, *fields.values()}
    return named | {name: value for name, value in row.items() if name not in taken}


def _guess_columns(rows: Sequence[Placed], kind: str) -> dict[str, str | None]:
    """Return which column of the rows each column of ``kind`` is, None where none looks like it."""
    present = {str(name).lower(): name for _, row in rows for name in row}
    return {
        column: next((present[name] for name in known_as if name in present), None)
        for column, known_as in KINDS[kind].items()
    }


def _checked_text(place: str, row: Mapping[str, Any], column: str, name: str | None) -> str:
    """Return one text of a row, or say what is wrong with it."""
    value = row.get(name)
    if column in OPTIONAL and (value is None or _is_blank(value)):
        return ""
    if value is None:
        raise ValueError(f"{place}: {column} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{place}: {column} must be text (got {str(value)[:40]})")
    if _is_blank(value):
        raise ValueError(f"{place}: {column} is empty")
    return value


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _without_chats(place: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the texts that its chats hold: lists of turns of a role and a content."""
    chats = {name: _exchange(place, value) for name, value in row.items() if _is_chat(value)}
    texts = {name: value for name, value in row.items() if name not in chats}
    if len({chats[name][0] for name in ("chosen", "rejected") if name in chats}) > 1:
        raise ValueError(f"{place}: chosen and rejected do not answer the same prompt")
    for name, (prompt, answer) in chats.items():
        if prompt:
            texts.setdefault("prompt", prompt)
        if answer and name != "prompt":
            texts["output" if name == "messages" else name] = answer
    return texts


def _is_chat(value: object) -> bool:
    turns = value if isinstance(value, list) and value else [None]
    return all(
        isinstance(turn, dict)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), str)
        for turn in turns
    )


def _exchange(place: str, chat: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    """Return what the user says in a chat, after a system turn if there is one, and the answer."""
    roles = [turn["role"] for turn in chat]
    talk = roles[1:] if roles[0] == "system" else roles
    if talk not in (["user"], ["assistant"], ["user", "assistant"]):
        raise ValueError(
            f"{place}: a chat must be one user's turn and its answer (got {', '.join(roles)})"
        )
    contents = [turn["content"] for turn in chat]
    answer = contents.pop() if talk[-1] == "assistant" else ""
    return "\n".join(contents), answer
