"""``course lab``: JupyterLab on the course's first chapter."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from course_utils.cli.console import Folder, console


def lab(
    context: typer.Context,
    browser: Annotated[
        bool, typer.Option(help="Open a browser, where there is a screen to show it on.")
    ] = True,
    ip: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Open JupyterLab on your copy of the first chapter; other arguments are JupyterLab's own.

    The copies are made in my/ (see `course notebooks`); with --folder that folder is opened as it
    is.
    """
    from course_utils.cli.notebooks.copies import bring, own_folder
    from course_utils.cli.notebooks.files import notebooks_dir, select_notebooks
    from course_utils.paths import checkout_dir

    if folder is None:
        folder, checkout = own_folder(), checkout_dir()
        brought = bring(notebooks_dir(), folder, renews=False)
        root = checkout if checkout and folder.parent == checkout else folder
        console.print(f"Your copies of the chapters: {folder}", soft_wrap=True)
        if brought.waiting:
            console.print(f"{len(brought.waiting)} have a new version: `course update` brings it.")
    else:
        root = folder
    chapter = select_notebooks(folder)[0]
    has_browser = browser and has_screen()
    console.print("JupyterLab is starting; Ctrl-C, twice, stops it.")
    if browser and not has_browser:
        console.print("There is no screen here: open the address below in a browser.")
    open_lab(
        lab_arguments(chapter, root, has_browser=has_browser, ip=ip, port=port, extra=context.args)
    )


def has_screen(environ: Mapping[str, str] | None = None, platform: str | None = None) -> bool:
    """Return whether a browser opened here would be seen.

    Args:
        environ: Environment to read; ``os.environ`` by default.
        platform: ``sys.platform`` by default.
    """
    environ = os.environ if environ is None else environ
    platform = sys.platform if platform is None else platform
    if environ.get("SSH_CONNECTION"):
        return False
    if platform.startswith(("win", "darwin")):
        return True
    return bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def lab_arguments(
    chapter: Path,
    root: Path,
    *,
    has_browser: bool,
    ip: str | None = None,
    port: int | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """Return JupyterLab's command line.

    Args:
        chapter: Notebook that is opened, inside ``root``.
        root: Folder that the file browser shows.
        has_browser: Whether JupyterLab opens a browser; it prints its address in any case.
        ip: Address to listen on; this machine only by default.
        port: Port to listen on, or the next free one; 8888 by default.
        extra: Further arguments, passed on as they are.

    Raises:
        ValueError: If the chapter is outside the root.
    """
    page = chapter.resolve().relative_to(root.resolve()).as_posix()
    arguments = [
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{page}",
        "--Application.log_level=WARN",
        "--LabApp.news_url=None",
    ]
    if not has_browser:
        arguments.append("--no-browser")
    # Jupyter refuses to run as root unless told so, and root is who one is in most containers.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--allow-root")
    if ip:
        arguments.append(f"--ServerApp.ip={ip}")
    if port is not None:
        arguments.append(f"--ServerApp.port={port}")
    return [*arguments, *extra]


def open_lab(arguments: Sequence[str]) -> None:
    """Run JupyterLab until it is stopped.

    Raises:
        ModuleNotFoundError: If JupyterLab is not installed.
    """
    try:
        from jupyterlab.labapp import LabApp
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "JupyterLab is not installed: pip install jupyterlab ipykernel"
        ) from error
    server = LabApp.initialize_server(argv=list(arguments))
    # Without a browser here, the file Jupyter would name next to the address opens nowhere.
    server.no_browser_open_file = not server.open_browser
    server.web_app.settings["page_config_hook"] = _disable_announcements
    server.start()


def _disable_announcements(_: object, page_config: dict[str, Any]) -> dict[str, Any]:
    """Switch off JupyterLab's question about news: the course asks nothing of the network."""
    announcements = "@jupyterlab/apputils-extension:announcements"
    disabled = [*page_config.get("disabledExtensions", []), announcements]
    return page_config | {"disabledExtensions": disabled}
