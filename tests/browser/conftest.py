"""A Chromium, JupyterLab from `course lab`, and notebooks open in it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.browser.lab import (
    ANSWER_SECONDS,
    CHROMIUM_ARGUMENTS,
    NotebookPage,
    Server,
    notebooks,
    serve,
    slowness,
)

FIRST = "00_first.ipynb"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the system's Chromium; skip without one unless COURSE_REQUIRE_BROWSER is set."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        reason = "no Chromium on this machine (Debian: apt-get install chromium)"
        if os.environ.get("COURSE_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Ends with the module: while it is open, no other test could run an event loop of its own.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Return a window whose cache the module's tests share; it waits as the machine needs."""
    milliseconds = ANSWER_SECONDS * slowness() * 1000
    expect.set_options(timeout=milliseconds)
    with browser.new_context(viewport={"width": 1280, "height": 1600}) as context:
        context.set_default_timeout(milliseconds)
        yield context


@pytest.fixture(scope="module")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that JupyterLab shows, with an empty first notebook."""
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    folder.mkdir()
    nbformat.write(nbformat.v4.new_notebook(), folder / FIRST)
    return folder


@pytest.fixture(scope="module")
def server(browser: Browser, lab_folder: Path) -> Iterator[Server]:
    """Run `course lab`."""
    with serve(lab_folder, scratch=lab_folder.parent) as server:
        yield server


@pytest.fixture
def open_notebook(
    context: BrowserContext, server: Server, lab_folder: Path
) -> Iterator[Callable[[Path], NotebookPage]]:
    """Return a function that opens a copy of a notebook in a new tab, until the test ends."""
    with notebooks(context, server, lab_folder) as open_copy:
        yield open_copy
