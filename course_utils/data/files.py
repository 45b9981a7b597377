"""Rows as they stand in a file or in a data set of the Hub, each with the place it stands at."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

# Read when the Hub's libraries are first imported; nothing is told about the learner.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

ROWS_OF_FIELDS = (".jsonl", ".csv", ".tsv")
PLAIN_TEXT = (".txt", ".md", ".raw")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")
Placed = tuple[str, dict[str, Any]]


def read_jsonl(path: Path) -> list[dict]:
    """Read a file of one JSON object a line; blank lines are passed over.

    Raises:
        ValueError: If a line is not a JSON object; the message names the line.
    """
    return [row for _, row in _json_lines(path)]


def read_file(path: Path) -> list[Placed]:
    """Read all rows of a file, each with its place: ``("answers.csv, line 7", {...})``.

    A .jsonl file has one JSON object a line; a .csv or .tsv file has its columns' names in the
    first line; a .txt, .md or .raw file is text, its documents parted by blank lines.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the ending is another, the file is empty or a line is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is a folder: name one file in it" if path.is_dir() else f"{path} is not there"
        )
    if is_plain_text(path):
        rows = [(path.name, {"text": text}) for text in _documents(path)]
    elif path.suffix.lower() in ROWS_OF_FIELDS:
        reader = _json_lines if path.suffix.lower() == ".jsonl" else _csv_rows
        rows = [(f"{path.name}, line {number}", row) for number, row in reader(path)]
    else:
        raise ValueError(
            f"{path.name} must end in {', '.join(ROWS_OF_FIELDS)} (rows with fields) or "
            f"{', '.join(PLAIN_TEXT)} (plain text)"
        )
    if not rows:
        raise ValueError(f"{path.name} holds no rows")
    return rows


def is_plain_text(path: Path) -> bool:
    """Return whether a file's ending says that it is text without fields."""
    return path.suffix.lower() in PLAIN_TEXT


def is_hub_id(source: str | Path) -> bool:
    """Return whether a source names a data set of the Hub: no file here, and shaped like an id."""
    path = Path(source)
    is_file = path.exists() or path.suffix.lower() in ROWS_OF_FIELDS + PLAIN_TEXT
    return isinstance(source, str) and not is_file and HUB_ID.fullmatch(source) is not None


def read_hub(
    name: str, *, config: str | None = None, split: str = "train", revision: str | None = None
) -> list[Placed]:
    """Read all rows of a data set of the Hub, with places numbered from 0 as the Hub does.

    Raises:
        FileNotFoundError: If the Hub shows no such data set.
        ConnectionError: If the Hub cannot be reached and the local cache lacks the data set.
        ValueError: If the configuration, the split or the revision does not exist, or no rows.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        dataset = load_dataset(name, config, split=split, revision=revision)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is neither a file here nor a data set that the Hub shows: check the spelling "
            "and the revision; a private or gated one needs `hf auth login`"
        ) from error
    except ConnectionError as error:
        raise ConnectionError(
            f"{name} is neither a file here nor to be had from the Hub ({_told(error)}): check the "
            "network, or give the path of a file"
        ) from error
    except Exception as error:
        raise ValueError(f"{name} cannot be loaded from the Hub: {_told(error)}") from error
    if not len(dataset):
        raise ValueError(f"{name} holds no rows in its split {split!r}")
    return [(f"{name}, row {number}", row) for number, row in enumerate(dataset)]


def _told(error: Exception) -> str:
    """Return the beginning of a library's message, as one line without its full stop."""
    return " ".join(str(error).split())[:160].rstrip(". ")


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path.name}, line {line} is not UTF-8: save it as UTF-8") from error


def _json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    # Not splitlines, which also splits at U+2028 and its like: JSON allows them inside a string.
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number} is not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, line {number} is no JSON object: {line.strip()[:40]}")
        yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    text = _text_of(path)
    first_line = text.partition("\n")[0]
    # Spreadsheets of many countries write semicolons.
    delimiter = max(",;\t", key=first_line.count)
    records = _numbered(
        path, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    )
    _, header = next(records, (0, []))
    names = [name.strip() for name in header]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path.name}: column {name!r} is there twice")
    for number, record in records:
        if len(record) != len(names):
            raise ValueError(
                f"{path.name}, line {number} has {len(record)} fields, the header {len(names)}"
            )
        yield number, dict(zip(names, record, strict=True))


def _numbered(path: Path, reader: Iterable[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a CSV reader that are not blank, with the line each begins on."""
    line = 0
    try:
        for record in reader:
            if record:
                yield line + 1, record
            line = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{path.name}, line {line + 1} is no CSV: {error}") from error


def _documents(path: Path) -> list[str]:
    """Return the documents of a text, which blank lines part."""
    lines = [line.rstrip("\r") for line in _text_of(path).split("\n")]
    blocks = groupby(lines, key=lambda line: bool(line.strip()))
    return ["\n".join(block) for has_text, block in blocks if has_text]
