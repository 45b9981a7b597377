"""Rows as they stand in a file or in a data set of the Hub, each with the place it stands at."""

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from course_utils.validation import shown

# Read when the Hub's libraries are first imported; nothing is told about the learner.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

ROWS_OF_FIELDS = (".jsonl", ".csv", ".tsv")
PLAIN_TEXT = (".txt", ".md", ".raw")
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}|[\w-]{1,96}")
# What a file may begin with to say how its text is encoded; without a mark it is UTF-8.
ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
Placed = tuple[str, dict[str, Any]]
Record = tuple[int, list[str]]


def read_jsonl(path: Path) -> list[dict]:
    """Read a file of one JSON object a line; blank lines are passed over.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a line is not a JSON object; the message names the line.
    """
    return [row for _, row in _json_lines(path)]


def read_file(path: Path) -> list[Placed]:
    """Read all rows of a file, each with its place: ``("answers.csv, line 7", {...})``.

    A .jsonl file has one JSON object a line; a .csv or .tsv file has its columns' names in the
    first line; a .txt, .md or .raw file is text, its documents parted by blank lines.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        ValueError: If the ending is another, the file is empty or a line is damaged.
    """
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        place = str(path)[-120:]
        raise FileNotFoundError(
            f"{place} is a folder: name one file in it"
            if os.path.isdir(path)
            else f"{place} is not there"
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
    is_file = os.path.exists(source) or Path(source).suffix.lower() in ROWS_OF_FIELDS + PLAIN_TEXT
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


def parse_json(text: str) -> Any:  # noqa: ANN401
    """Return what a JSON text says, if it says everything once, in numbers and texts that exist.

    Raises:
        ValueError: If it is not JSON, has a key twice, nests too deep, or holds NaN, an infinity, a
            number of thousands of digits or half of a surrogate pair.
    """
    try:
        found = json.loads(
            text, object_pairs_hook=_as_dict, parse_constant=_refuse, parse_float=_finite
        )
        # Only an escape can be half of a pair: the text itself has been decoded.
        lone = re.search("[\ud800-\udfff]", _written(found)) if "\\ud" in text.lower() else None
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    except ValueError as error:
        raise ValueError(getattr(error, "msg", str(error))) from error
    if lone:
        raise ValueError(f"it holds {lone[0]!r}, half of a character")
    return found


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {shown(name)} is there twice")
        found[name] = value
    return found


def _refuse(digits: str) -> NoReturn:
    raise ValueError(f"{digits[:20]} is no finite number")


def _finite(digits: str) -> float:
    return number if abs(number := float(digits)) < float("inf") else _refuse(digits)


def _told(error: Exception) -> str:
    """Return the beginning of a library's message, as one line without its full stop."""
    return " ".join(str(error).split())[:160].rstrip(". ")


def _text_of(path: Path) -> str:
    """Return a file's text, or say which of its lines is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror}") from error
    encoding = next((e for mark, e in ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "ignore").count("\n") + 1
        name = encoding.upper().removesuffix("-SIG")
        raise ValueError(f"{path.name}, line {line} is not {name}: save it as UTF-8") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{path.name}, line {line} holds a NUL byte: save it as text, in UTF-8")
    return text


def _json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    # Not splitlines, which also splits at U+2028 and its like: JSON allows them inside a string.
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{path.name}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, line {number} is no JSON object: {line.strip()[:40]}")
        yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    text = _text_of(path)
    # Spreadsheets of many countries write semicolons.
    delimiters = "\t" if path.suffix.lower() == ".tsv" else ",;\t"
    records, fault = max((_read_csv(text, delimiter) for delimiter in delimiters), key=_fit)
    _, header = records[0] if records else (0, [])
    names = [name.strip() for name in header]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path.name}: column {shown(name)} is there twice")
    for number, record in records[1:]:
        if len(record) != len(names):
            raise ValueError(
                f"{path.name}, line {number} has {len(record)} fields, the header {len(names)}"
            )
        yield number, dict(zip(names, record, strict=True))
    if fault:
        raise ValueError(f"{path.name}, {fault}")


def _read_csv(text: str, delimiter: str) -> tuple[list[Record], str]:
    """Return the records from the header on, each with the line it begins on, and what ends them.

    Blank lines are passed over. What ends them is empty if it is the end of the file.
    """
    limit = csv.field_size_limit(max(len(text), 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records, fault, line = [], "", 0
    try:
        for record in reader:
            if record if records else any(field.strip() for field in record):
                records.append((line + 1, record))
            line = reader.line_num
    except csv.Error as error:
        fault = f"line {line + 1} is no CSV: {error}"
    finally:
        csv.field_size_limit(limit)
    return records, fault


def _fit(reading: tuple[list[Record], str]) -> tuple[bool, bool, int]:
    """Return how likely a delimiter is: it parts the header, all rows alike, into many fields."""
    records, fault = reading
    widths = [len(record) for _, record in records] or [0]
    return widths[0] > 1, not fault and len(set(widths)) == 1, widths[0]


def _documents(path: Path) -> list[str]:
    """Return the documents of a text, which blank lines part."""
    lines = [line.rstrip("\r") for line in _text_of(path).split("\n")]
    blocks = groupby(lines, key=lambda line: bool(line.strip()))
    return ["\n".join(block) for has_text, block in blocks if has_text]
