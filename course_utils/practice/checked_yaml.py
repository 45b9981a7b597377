"""YAML files of entries with ids, checked against a schema when they are read."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


def read_entries(path: Path, schema_path: Path) -> list[dict]:
    """Read a YAML list whose entries carry an ``id``.

    Raises:
        ValueError: If the file is not YAML, breaks the schema, or has an id twice; the message has
            one line for each fault: file, id, rule.
    """
    import yaml
    from jsonschema import Draft202012Validator

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
    validator = Draft202012Validator(json.loads(schema_path.read_text(encoding="utf-8")))
    faults = [
        f"{path.name}: {_where(entries, list(error.absolute_path))}: {error.message}"
        for error in validator.iter_errors(entries)
    ]
    raise_faults(faults or [*_repeated_ids(path, entries)])
    return entries


def raise_faults(faults: list[str]) -> None:
    """Raise one ValueError that lists the faults, if there are any."""
    if faults:
        raise ValueError("\n".join(faults))


def _where(entries: object, place: list[str | int]) -> str:
    if not place:
        return "the file"
    entry = entries[place[0]]
    identity = entry.get("id") if isinstance(entry, dict) else None
    name = str(identity or f"entry {place[0] + 1}")
    return ", ".join([name, *(".".join(map(str, place[1:])),) * (len(place) > 1)])


def _repeated_ids(path: Path, entries: list[dict]) -> Iterator[str]:
    for identity, n in Counter(entry["id"] for entry in entries).items():
        if n > 1:
            yield f"{path.name}: {identity}: the id must be unique (found {n} times)"
