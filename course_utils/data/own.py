"""A learner's own data, with the columns that the course's task sets have."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from course_utils.data.files import Placed, is_hub_id, is_plain_text, read_file, read_hub
from course_utils.validation import check_choice, check_text, shown

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
    system turn goes before the user's. Columns that contradict a chat are refused, unless
    ``fields`` names ``messages``: then the chat alone counts. Blank texts of a corpus part
    documents and are left out, as in
    ``load_own("Salesforce/wikitext", "texts", config="wikitext-2-raw-v1")``.

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

    _check_request(source, kind, fields)
    for name, value in (("config", config), ("split", split), ("revision", revision)):
        check_text(name, value or "")
    if is_hub_id(source):
        rows = read_hub(str(source), config=config, split=split, revision=revision)
    elif kind != "texts" and is_plain_text(Path(source)):
        raise ValueError(f"{source} is plain text: {kind} are rows of a .jsonl, .csv or .tsv file")
    else:
        rows = read_file(Path(os.path.expanduser(source)))
    return Dataset.from_list(_in_shape(str(source)[-120:], rows, kind, fields or {}))


def _check_request(source: object, kind: object, fields: object) -> None:
    if not isinstance(source, str | Path):
        raise ValueError(
            f"source={shown(source)} must be the path of a file or the id of a data set of the Hub"
        )
    check_text("source", str(source))
    check_choice("kind", kind, KINDS)
    if not isinstance(fields or {}, Mapping):
        raise ValueError(f"fields={shown(fields)} must be a dictionary of columns")
    for column, name in (fields or {}).items():
        if column not in {*KINDS[kind], "messages"}:
            names = ", ".join(KINDS[kind])
            raise ValueError(f"fields names {shown(column)}, which is none of {names}, messages")
        check_text(f"fields[{column!r}]", name)


def _in_shape(
    source: str, rows: Sequence[Placed], kind: str, fields: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the rows with the columns of ``kind``, each value checked."""
    present = list(dict.fromkeys(name for _, row in rows for name in row))
    listed = f"(columns: {', '.join(str(name)[:20] for name in present[:6])})"
    for name in fields.values():
        if name not in present:
            raise ValueError(f"{source} has no column {shown(name)} {listed}")
    rows = [(place, _renamed(row, fields)) for place, row in rows]
    if kind != "texts":
        rows = [(place, _without_chats(place, row, kind)) for place, row in rows]
    columns = _guess_columns(source, rows, kind)
    for column, name in columns.items():
        if name is None and column not in OPTIONAL:
            raise ValueError(
                f"no column of {source} looks like {column} {listed}: name it, as in "
                f"fields={{{column!r}: {shown(present[0])}}}"
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
    if "messages" in fields:
        return named
    taken = {*fields, *fields.values()}
    return named | {name: value for name, value in row.items() if name not in taken}


def _guess_columns(source: str, rows: Sequence[Placed], kind: str) -> dict[str, str | None]:
    """Return which column of the rows each column of ``kind`` is, None where none looks like it."""
    present: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for _, row in rows for name in row):
        present.setdefault(str(name).lower(), []).append(name)
    found: dict[str, str | None] = {}
    for column, known_as in KINDS[kind].items():
        names = next((present[name] for name in known_as if name in present), [None])
        if len(names) > 1:
            raise ValueError(
                f"{source} has the columns {' and '.join(map(repr, names))}: name the one that is "
                f"meant, as in fields={{{column!r}: {names[0]!r}}}"
            )
        found[column] = names[0]
    return found


def _checked_text(place: str, row: Mapping[str, Any], column: str, name: str | None) -> str:
    """Return one text of a row, or say what is wrong with it."""
    value = row.get(name)
    if column in OPTIONAL and (value is None or _is_blank(value)):
        return ""
    if value is None:
        raise ValueError(f"{place}: {column} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{place}: {column} must be text (got {shown(value)})")
    if _is_blank(value):
        raise ValueError(f"{place}: {column} is empty")
    check_text(f"{place}: {column}", value)
    return value


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


class _Exchange(NamedTuple):
    """What a chat says: empty where it has no such turn, ``answer`` None."""

    system: str
    user: str
    answer: str | None

    @property
    def prompt(self) -> str:
        """The system's turn, if there is one, and the user's."""
        return "\n".join(text for text in (self.system, self.user) if text)


def _without_chats(place: str, row: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return a row with the texts that its chats hold: lists of turns of a role and a content."""
    chats = {name: _exchange(place, value) for name, value in row.items() if _is_chat(value)}
    is_talk = kind != "preferences" and row.get("messages") is not None
    if is_talk and "messages" not in chats:
        raise ValueError(f"{place}: messages must be a list of turns with a role and a content")
    if not chats:
        return dict(row)
    ask, *others = KINDS[kind]
    texts = {name: value for name, value in row.items() if name not in chats}
    prompts = _taken(texts, KINDS[kind][ask])
    if prompt := _one_prompt(place, chats, prompts):
        texts[ask] = prompt
    answers = {name: chat.answer for name, chat in chats.items() if chat.answer is not None}
    if kind == "preferences":
        if any(name.lower() in KINDS[kind][ask] for name in answers):
            raise ValueError(f"{place}: a prompt must end with the user's turn")
        return texts | {name: answers[name] for name in answers if name.lower() in others}
    if kind == "instructions" and answers:
        said = [*answers.values(), *_taken(texts, KINDS[kind]["output"])]
        for other in said[1:]:
            if str(other).strip() != said[0].strip():
                raise ValueError(f"{place}: two answers, {shown(said[0])} and {shown(other)}")
        texts["output"] = said[0]
    return texts


def _taken(row: dict[str, Any], known_as: Sequence[str]) -> list[object]:
    """Take columns of these names out of a row, and return what they say."""
    names = [name for name in row if name.lower() in known_as]
    values = [row.pop(name) for name in names]
    return [value for value in values if value is not None and not _is_blank(value)]


def _one_prompt(place: str, chats: Mapping[str, _Exchange], prompts: Sequence[object]) -> str:
    """Return what all chats and prompt columns of a row ask; these may leave the system's out."""
    sides = [chats[name] for name in chats if name.lower() in ("chosen", "rejected")]
    if len({side.prompt for side in sides}) > 1:
        raise ValueError(f"{place}: chosen and rejected do not answer the same prompt")
    systems = {chat.system for chat in chats.values() if chat.system}
    users = {chat.user for chat in chats.values() if chat.user}
    if len(systems) > 1 or len(users) > 1:
        raise ValueError(f"{place}: its chats do not ask the same")
    system, user = "".join(systems), "".join(users)
    if not user and prompts:
        user = str(prompts[0]).removeprefix(f"{system}\n")
    whole = _Exchange(system, user, None).prompt
    for prompt in prompts:
        if str(prompt).strip() not in (user.strip(), whole.strip()):
            raise ValueError(
                f"{place}: the prompt is {shown(prompt)}, but the chat asks {shown(whole)}"
            )
    return whole


def _is_chat(value: object) -> bool:
    turns = value if isinstance(value, list) and value else [None]
    return all(
        isinstance(turn, dict)
        and isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), str)
        for turn in turns
    )


def _exchange(place: str, chat: Sequence[Mapping[str, str]]) -> _Exchange:
    """Return what a chat says: perhaps a system's turn, then a user's, an answer, or both."""
    roles = [turn["role"] for turn in chat]
    talk = roles[1:] if roles[0] == "system" else roles
    if talk not in (["user"], ["assistant"], ["user", "assistant"]):
        raise ValueError(
            f"{place}: a chat must be one user's turn and its answer (got {', '.join(roles)[:60]})"
        )
    said = {turn["role"]: turn["content"] for turn in chat}
    return _Exchange(said.get("system", ""), said.get("user", ""), said.get("assistant"))
