"""Where the course's files are, in a checkout and in an installed wheel."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def package_dir() -> Path:
    """Return the folder of the package's source."""
    return _PACKAGE


def data_dir() -> Path:
    """Return the folder that holds ``base_model/``, ``tasks/``, ``lexicons/`` and ``quiz/``.

    A checkout keeps it beside the package, a wheel inside it (``course_utils/_data``).

    Raises:
        FileNotFoundError: If neither place has it.
    """
    for folder in (_PACKAGE.parent / "data", _PACKAGE / "_data"):
        if (folder / "lexicons").is_dir():
            return folder
    raise FileNotFoundError(
        f"the course's data folder is neither {_PACKAGE.parent / 'data'} nor {_PACKAGE / '_data'}: "
        "install the package again, or run it from a full checkout"
    )


def checkout_dir() -> Path | None:
    """Return the repository's root, or None when the package runs from a wheel."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "data").is_dir() else None


def is_writable(folder: Path) -> bool:
    """Return whether this user may write to a folder, or make it; on a share perhaps nobody may."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(there, os.W_OK)


def state_dir() -> Path:
    """Return the folder of what the course remembers on this machine; it may not be there yet.

    ``COURSE_STATE_DIR`` if set, ``.course/`` in a checkout that can be written to, else the user's
    folder for data.
    """
    chosen = os.environ.get("COURSE_STATE_DIR")
    if chosen:
        return Path(chosen)
    checkout = checkout_dir()
    if checkout and is_writable(checkout):
        return checkout / ".course"
    import platformdirs

    return platformdirs.user_data_path("course-utils")
