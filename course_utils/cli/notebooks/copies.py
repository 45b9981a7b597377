"""The reader's own copies of the notebooks: made once, never overwritten, brought up to date.

Readers work in ``my/``, so that a new version of the course never meets their changes. What was
copied is remembered by its checksum: a copy that is still as it came takes the new version, and
beside one that was changed the new version is put as ``NN_name.new.ipynb``.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from course_utils.cli.notebooks.files import NEW_VERSION, select_notebooks
from course_utils.files import sha256, sha256_of, write_bytes, write_text
from course_utils.paths import checkout_dir, is_writable

FOLDER_NAME = "my"
_RECORD = ".copied.json"


@dataclass(frozen=True)
class Brought:
    """What :func:`bring` did, as names of files.

    Args:
        added: Chapters that were not there.
        renewed: Copies that were as they had come, and are now the new version.
        beside: New versions that were put beside a changed copy.
        kept: Copies that stayed as they are.
        waiting: Of these, the ones of which there is a new version.
    """

    added: tuple[str, ...] = ()
    renewed: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = (
            (self.added, "new"),
            (self.renewed, "renewed"),
            (self.kept, "left as they are"),
        )
        said = ", ".join(f"{len(names)} {what}" for names, what in parts if names)
        if self.beside:
            said += f"; you have changed these, their new versions: {', '.join(self.beside)}"
        return said or "no notebook"


def own_folder() -> Path:
    """Return where the reader's copies are: ``my/`` in a checkout that can be written to.

    On a read-only share, and without a checkout, that is ``efficient-fine-tuning`` in the user's
    documents.
    """
    checkout = checkout_dir()
    if checkout and is_writable(checkout):
        return checkout / FOLDER_NAME
    import platformdirs

    return platformdirs.user_documents_path() / "efficient-fine-tuning"


def bring(source: Path, target: Path, *, renews: bool = True) -> Brought:
    """Copy the course's notebooks to the reader's folder; nothing of the reader's is overwritten.

    Args:
        source: The course's notebooks.
        target: The reader's folder, made if it is not there.
        renews: Whether new versions of chapters that are there are brought as well.

    Raises:
        FileNotFoundError: If the source holds no notebook.
        OSError: If the target cannot be written, as on a full disk; what was there stands.
        ValueError: If the target is the source.
    """
    if target.resolve() == source.resolve():
        raise ValueError(f"folder {target} holds the course's own notebooks: name another one")
    target.mkdir(parents=True, exist_ok=True)
    record = _read_record(target)
    done: dict[str, list[str]] = {
        name: [] for name in ("added", "renewed", "beside", "kept", "waiting")
    }
    for original in select_notebooks(source):
        name, data = original.name, original.read_bytes()
        place = target / name
        if not place.exists():
            done["added"].append(name)
        elif sha256(place) == sha256_of(data) or record.get(name) == sha256_of(data):
            done["kept"].append(name)  # It is the new version, or the reader's change of it.
            continue
        elif not renews:
            done["kept"].append(name)
            done["waiting"].append(name)
            continue
        elif record.get(name) == sha256(place):
            done["renewed"].append(name)
        else:
            place = target / (original.stem + NEW_VERSION)
            done["beside"].append(place.name)
        write_bytes(place, data)
        record[name] = sha256_of(data)
        write_text(target / _RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")
    return Brought(**{what: tuple(names) for what, names in done.items()})


def _read_record(target: Path) -> dict[str, str]:
    """Return the checksums of what was copied; a damaged record counts as none."""
    try:
        found = json.loads((target / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
