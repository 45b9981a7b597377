"""Work done in a process of its own, which may be killed at any moment, or end in any way."""

import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

# What Python tells of before it asks the system: `open`, `os.rename`, `shutil.rmtree` and the rest.
_OF_FILES = ("open", "os.", "shutil.", "fcntl.")
_LIMIT_SECONDS = 120
_LONGEST_SENTENCE = 300


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a child ended.

    Args:
        said: What it returned or raised, as a text; empty if it was killed.
        was_killed: Whether it was killed.
        hung: Whether it did not come to an end.
        crashed: Whether the interpreter itself ended.
    """

    said: str
    was_killed: bool
    hung: bool
    crashed: bool


def in_child(
    work: Callable[[], object],
    *,
    kill_at_call: int | None = None,
    kill_after_seconds: float | None = None,
    most_bytes: int | None = None,
    user: int | None = None,
) -> Ending:
    """Do work in a copy of this process.

    Args:
        work: What to do; what it returns or raises is told as a text.
        kill_at_call: Kill it before the so manieth call for a file or folder, counted from 0.
        kill_after_seconds: Kill it after so much time.
        most_bytes: No file may become larger, as on a full disk.
        user: Number of the user who does it.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if not child:
        _in_the_child(work, writer, kill_at_call, kill_after_seconds, most_bytes, user)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ending(
        said=said,
        was_killed=status in (-signal.SIGKILL, -signal.SIGALRM),
        hung=status == -signal.SIGPROF,
        crashed=status not in (0, -signal.SIGKILL, -signal.SIGALRM, -signal.SIGPROF),
    )


def _in_the_child(
    work: Callable[[], object],
    writer: int,
    kill_at_call: int | None,
    kill_after_seconds: float | None,
    most_bytes: int | None,
    user: int | None,
) -> None:
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, _LIMIT_SECONDS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if most_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    if user is not None:
        os.setuid(user)
    if kill_at_call is not None:
        _kill_at(kill_at_call)
    if kill_after_seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, kill_after_seconds)
    try:
        said = work()
    except BaseException as error:
        said = told(error)
    os.write(writer, str(said).encode()[:4000])
    os._exit(0)


def counts_as_call(event: str) -> bool:
    """Say whether Python tells of a call for a file or folder."""
    return event.startswith(_OF_FILES)


def _kill_at(call: int) -> None:
    count = 0

    def hook(event: str, _: tuple) -> None:
        nonlocal count
        if counts_as_call(event):
            count += 1
            if count == call + 1:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def told(error: BaseException) -> str:
    """Return an error as "clear: ..." if it is one sentence that the package raised itself."""
    frames, trace = [], error.__traceback__
    while trace:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    is_ours = "course_utils" in frames[-1].f_code.co_filename
    is_kind = isinstance(error, ValueError | OSError) or (
        type(error).__module__.startswith("course_utils")
    )
    is_clear = (
        is_ours and is_kind and not isinstance(error, UnicodeError) and "\n" not in str(error)
    )
    return f"{'clear' if is_clear else 'OBSCURE'}: {type(error).__name__}: {error}"
