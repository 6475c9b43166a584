"""What this process and its descendants use: processes, memory, open files. Reads ``/proc`` only."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_S = 0.02
_FILES_EVERY = 5  # samples; reading links takes longer than reading sizes

# What no process keeps data in. Everything else that a descriptor leads to is a file of somebody's.
_NO_FILES = ("/dev/", "/proc/", "anon_inode:", "pipe:", "socket:")


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its id, and when it started, in clock ticks since boot, since ids are used again."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in bytes: of this process, and of it and all its descendants together."""

    host_bytes: int
    total_bytes: int


def started(pid: int) -> int | None:
    """Return when the process *pid* started, or None if there is none, or nothing but its exit status is left."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def lives(process: Process) -> bool:
    """Return whether *process* still runs."""
    return started(process.pid) == process.started


def descendants() -> set[Process]:
    """Return the children of this process, their children and so on; zombies left out."""
    found: set[Process] = set()
    waiting = [os.getpid()]
    while waiting:
        for pid in _children(waiting.pop()):
            begun = started(pid)
            if begun is not None:
                found.add(Process(pid, begun))
                waiting.append(pid)
    return found


def zombies() -> set[int]:
    """Return the ids of this process's own children that have ended and were not reaped."""
    return {pid for pid in _children(os.getpid()) if started(pid) is None and (_PROC / str(pid)).exists()}


def _children(pid: int) -> list[int]:
    children: list[int] = []
    # Each thread has the children that it started.
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                children += map(int, (thread / "children").read_text("ascii").split())
    return children


def memory(processes: set[Process]) -> Memory:
    """Return the resident memory of this process, and of it together with *processes*."""
    host = _resident(os.getpid())
    return Memory(host, host + sum(_resident(process.pid) for process in processes))


def _resident(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_text("ascii").split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descriptors(pid: int) -> Iterator[tuple[Path, str]]:
    """Yield each open descriptor of *pid*: its path below ``/proc``, and what it leads to."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for link in (_PROC / str(pid) / "fd").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                yield link, str(link.readlink())


def own_descriptors() -> dict[str, str]:
    """Return this process's descriptors, by number, and what each leads to; the one that this takes left out."""
    return {link.name: target for link, target in descriptors(os.getpid()) if not target.endswith(f"/{os.getpid()}/fd")}


def open_files() -> dict[Path, str]:
    """Return the data files that this process and its descendants have open, by descriptor."""
    pids = [os.getpid(), *(process.pid for process in descendants())]
    return {link: target for pid in pids for link, target in descriptors(pid) if not target.startswith(_NO_FILES)}


class Meter:
    """Samples memory in a thread of its own, so that an event loop that is blocked is measured like any other.

    Attributes:
        before: memory when the measurement began.
        peak: the most memory seen, the host's and the total each by itself.
        seen: every descendant seen.
        files: every data file seen open.
    """

    def __init__(self) -> None:
        """Measure from now on."""
        self.seen = descendants()
        self.before = self.peak = memory(self.seen)
        self.files: set[str] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the measurement."""
        self._ending.set()
        self._thread.join()

    @property
    def host_growth_bytes(self) -> int:
        """How much more memory this process had at its peak than before."""
        return self.peak.host_bytes - self.before.host_bytes

    @property
    def total_growth_bytes(self) -> int:
        """How much more memory this process and its descendants had at their peak than before."""
        return self.peak.total_bytes - self.before.total_bytes

    def _sample(self) -> None:
        number = 0
        while True:
            alive = descendants()
            now = memory(alive)
            self.seen |= alive
            self.peak = Memory(max(self.peak.host_bytes, now.host_bytes), max(self.peak.total_bytes, now.total_bytes))
            if number % _FILES_EVERY == 0:
                self.files.update(open_files().values())
            number += 1
            if self._ending.wait(_SAMPLE_S):
                return
