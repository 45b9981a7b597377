"""YAML files of entries with ids, read strictly and checked against a schema.

What YAML would guess, double or multiply is refused: a key that is there twice, ``010`` (eight) and
``1:30`` (ninety), aliases, which can make a gigabyte of ten lines, numbers that are not finite.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.files import check_plain
from course_utils.validation import shown

if TYPE_CHECKING:
    import yaml

_PLAIN_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_LONGEST_MESSAGE = 160


def read_entries(path: Path, schema_path: Path) -> list[dict]:
    """Read a YAML list whose entries carry an ``id``.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file is not YAML, breaks the schema, or has an id twice; the message has
            one line for each fault: file, id, rule.
    """
    from jsonschema import Draft202012Validator

    entries = _read_yaml(path)
    validator = Draft202012Validator(json.loads(schema_path.read_text(encoding="utf-8")))
    faults = [
        f"{path.name}: {_where(entries, list(error.absolute_path))}: {_cut(error.message)}"
        for error in validator.iter_errors(entries)
    ]
    raise_faults(faults or [*_repeated_ids(path, entries)])
    return entries


def raise_faults(faults: list[str]) -> None:
    """Raise one ValueError that lists the faults, if there are any."""
    if faults:
        raise ValueError("\n".join(faults))


def _read_yaml(path: Path) -> Any:  # noqa: ANN401
    import yaml

    try:
        check_plain(path)
        text = path.read_bytes().decode()
        return yaml.load(text, Loader=_strict_loader())
    except OSError as error:
        if error.strerror is None:  # it is told already
            raise
        raise type(error)(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8, from byte {error.start} on") from error
    except RecursionError as error:
        raise ValueError(f"{path.name} is not YAML: it nests too deep") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path.name} is not YAML: {_cut(_told(error))}") from error


def _told(error: Exception) -> str:
    """Return what a loader found and where, as one line."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"{error.problem}, line {mark.line + 1}"


def _cut(message: str) -> str:
    """Keep both ends of a message: the value stands first, the rule last."""
    half = _LONGEST_MESSAGE // 2
    return message if len(message) <= 2 * half else f"{message[:half]} ... {message[-half:]}"


@cache
def _strict_loader() -> "type[yaml.SafeLoader]":
    import yaml
    from yaml.constructor import ConstructorError

    class StrictLoader(yaml.SafeLoader):
        """Reads what stands there, and nothing else."""

        def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401
            if self.check_event(yaml.AliasEvent):
                raise _error("aliases are not read", self.peek_event())
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            seen = set()
            for key, _ in node.value:
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
                if key.tag == "tag:yaml.org,2002:merge":
                    raise _error("merge keys are not read", key)
                if name in seen:
                    raise _error(f"the key {shown(key.value)} is there twice", key)
                seen.add(name)
            return super().construct_mapping(node, deep=deep)

        def construct_text(self, node: yaml.ScalarNode) -> str:
            if any("\ud800" <= character <= "\udfff" for character in node.value):
                raise _error(f"{shown(node.value)} holds half of a character", node)
            return self.construct_scalar(node)

        def construct_number(self, node: yaml.ScalarNode) -> int | float:
            is_plain = _PLAIN_NUMBER.fullmatch(node.value)
            number = float(node.value) if is_plain else math.nan
            if not math.isfinite(number):
                raise _error(f"{shown(node.value)} is no plain, finite number", node)
            return int(node.value) if node.tag.endswith(":int") else number

    def _error(problem: str, at: Any) -> Exception:  # noqa: ANN401
        return ConstructorError(None, None, problem, at.start_mark)

    for kind in ("int", "float"):
        StrictLoader.add_constructor(f"tag:yaml.org,2002:{kind}", StrictLoader.construct_number)
    StrictLoader.add_constructor("tag:yaml.org,2002:str", StrictLoader.construct_text)
    return StrictLoader


def _where(entries: object, place: list[str | int]) -> str:
    if not place:
        return "the file"
    entry = entries[place[0]]
    identity = entry.get("id") if isinstance(entry, dict) else None
    name = str(identity or f"entry {place[0] + 1}")[:60]
    return ", ".join([name, *(".".join(map(str, place[1:])),) * (len(place) > 1)])


def _repeated_ids(path: Path, entries: list[dict]) -> Iterator[str]:
    for identity, n in Counter(entry["id"] for entry in entries).items():
        if n > 1:
            yield f"{path.name}: {identity}: the id must be unique (found {n} times)"
