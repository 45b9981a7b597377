"""The claims ledger: what is said about fine-tuning, and what this course measured."""

from dataclasses import dataclass
from pathlib import Path

from course_utils.paths import data_dir
from course_utils.practice.checked_yaml import read_entries


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The cell that shows it: a notebook's file name and a tag of the cell."""

    notebook: str
    tag: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim and its verdict.

    Args:
        id: Number of the chapter that tests it, then a name.
        claim: The claim in our own words.
        kind: ``myth`` (a belief that is passed on), ``bug`` (a mistake in code) or ``claim`` (a
            statement of a paper).
        verdict: ``confirmed``, ``refuted``, ``depends`` (the note says on what) or ``untested``.
        source: A paper, or the kind of place it is found in.
        evidence: The cell that shows it; None only while untested.
        note: On what the verdict depends, or its limits.
    """

    id: str
    claim: str
    kind: str
    verdict: str
    source: str
    evidence: Evidence | None = None
    note: str = ""


def load_claims(path: Path | None = None) -> tuple[Claim, ...]:
    """Read a ledger, by default the course's own.

    Raises:
        ValueError: If an entry breaks the schema or has an id twice; one line for each fault.
    """
    path = data_dir() / "claims.yaml" if path is None else Path(path)
    claims = []
    for entry in read_entries(path, data_dir() / "claims.schema.json"):
        evidence = entry.pop("evidence", None)
        claims.append(Claim(**entry, evidence=Evidence(**evidence) if evidence else None))
    return tuple(claims)
