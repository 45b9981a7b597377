"""Execute a notebook in a fresh kernel and measure its time and peak memory."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any

import psutil

from course_utils.cli.notebooks.files import code_cells, read_notebook

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbformat import NotebookNode

_SAMPLING_SECONDS = 0.1
_START_SECONDS = 60


class CellError(RuntimeError):
    """A cell raised, or took its kernel down.

    Args:
        cell: Position of the cell among the notebook's code cells, from 1.
        n_cells: Number of code cells.
        source: The cell's code.
        traceback: What the kernel said, with its terminal colours.
    """

    def __init__(self, cell: int, n_cells: int, source: str, traceback: str) -> None:
        super().__init__(f"cell {cell} of {n_cells} failed")
        self.cell, self.n_cells, self.source, self.traceback = cell, n_cells, source, traceback


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One finished run of a notebook.

    Args:
        node: The notebook with its new outputs.
        n_cells: Code cells executed.
        seconds: Wall time, kernel start included.
        peak_bytes: Largest resident memory of the kernel and its children, sampled ten times a
            second; pages shared between them count once for each.
    """

    node: "NotebookNode"
    n_cells: int
    seconds: float
    peak_bytes: int


def execute_notebook(path: Path, *, on_cell: Callable[[int, int], None] | None = None) -> Execution:
    """Execute a notebook from top to bottom in a fresh kernel of this interpreter.

    The kernel's working folder is the notebook's. The file is not changed, and a reader's
    record is neither read nor written. Ctrl-C shuts the kernel down and raises KeyboardInterrupt.

    Args:
        path: The notebook.
        on_cell: Called before each code cell with its position, from 1, and their number.

    Raises:
        CellError: If a cell raises or the kernel dies.
        ModuleNotFoundError: If the kernel's package is not installed.
    """
    node = read_notebook(path)
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    # Windows' default event loop cannot watch the kernel's sockets.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(_execute(node, path.resolve().parent, on_cell or (lambda *_: None)))


async def _execute(
    node: "NotebookNode", folder: Path, on_cell: Callable[[int, int], None]
) -> Execution:
    started = perf_counter()
    manager = _kernel_manager()
    # What the kernel's process writes past IPython would tear the progress display.
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as state:
        client, watcher, peak = None, None, _PeakMemory()
        try:
            await manager.start_kernel(
                cwd=str(folder),
                env=os.environ | {"COURSE_STATE_DIR": state},
                stdout=log,
                stderr=log,
                extra_arguments=["--HistoryManager.hist_file=:memory:"],
            )
            watcher = asyncio.create_task(peak.watch(manager.provisioner.pid))
            client = manager.client()
            client.start_channels()
            try:
                await client.wait_for_ready(timeout=_START_SECONDS)
            except RuntimeError as error:
                raise RuntimeError(f"the kernel did not start: {_last_words(log)}") from error
            n_cells = await _execute_cells(node, manager, client, on_cell, log)
        finally:
            if watcher:
                watcher.cancel()
            if client:
                client.stop_channels()
            if manager.has_kernel:
                await manager.shutdown_kernel(now=True)
    return Execution(
        node=node, n_cells=n_cells, seconds=perf_counter() - started, peak_bytes=peak.peak_bytes
    )


def _kernel_manager() -> "AsyncKernelManager":
    """Return a manager for this interpreter's kernel, whatever kernels the user has registered."""
    try:
        from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "no Jupyter kernel in this Python: pip install jupyterlab ipykernel"
        ) from error
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class _ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=_ThisPython())


async def _execute_cells(
    node: "NotebookNode",
    manager: "AsyncKernelManager",
    kernel_client: Any,  # noqa: ANN401
    on_cell: Callable[[int, int], None],
    log: IO[bytes],
) -> int:
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    client = NotebookClient(
        node, km=manager, record_timing=False, store_widget_state=False, coalesce_streams=True
    )
    client.kc = kernel_client
    client.kc.allow_stdin = False
    position = {id(cell): index for index, cell in enumerate(node.cells)}
    cells = code_cells(node)
    for k, cell in enumerate(cells, start=1):
        on_cell(k, len(cells))
        try:
            await client.async_execute_cell(cell, position[id(cell)])
        except CellExecutionError as error:
            raised = [o for o in cell.outputs if o.output_type == "error"]
            text = "\n".join(raised[-1].traceback) if raised else str(error)
            raise CellError(k, len(cells), cell.source, text) from None
        except DeadKernelError:
            task = asyncio.current_task()
            if task and task.cancelling():  # nbclient takes Ctrl-C for the kernel's death
                raise asyncio.CancelledError from None
            raise CellError(k, len(cells), cell.source, _last_words(log)) from None
    return len(cells)


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    text = log.read().decode(errors="replace").strip()
    why = "the kernel died without a traceback; most often the machine has run out of memory"
    return f"{why}\n{text[-2000:]}".strip()


class _PeakMemory:
    """Largest resident memory of a process and its children seen so far."""

    def __init__(self) -> None:
        self.peak_bytes = 0

    async def watch(self, pid: int) -> None:
        """Sample until cancelled or until the process is gone."""
        try:
            root = psutil.Process(pid)
            while True:
                self.peak_bytes = max(self.peak_bytes, _resident_bytes(root))
                await asyncio.sleep(_SAMPLING_SECONDS)
        except psutil.Error:
            return


def _resident_bytes(root: psutil.Process) -> int:
    total_bytes = root.memory_info().rss
    for child in root.children(recursive=True):
        try:
            total_bytes += child.memory_info().rss
        except psutil.Error:  # ended between the listing and the question
            continue
    return total_bytes
