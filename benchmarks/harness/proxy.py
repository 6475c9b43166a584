"""Starting the delaying proxy and asking it what it saw. Starts one process, and reaps it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from benchmarks.harness.exchanges import Exchange

_ROOT: Final = Path(__file__).parent.parent.parent
_STOP_GRACE_S: Final = 10.0


@dataclass
class DelayProxy:
    """A running proxy.

    Attributes:
        endpoint_url: where clients find it.
        seed: what its delays are drawn from.
        pid: its process.
        event_loop: the module of its event loop.
        cpu_s: the processor seconds that it had used at the last :meth:`take`.
    """

    endpoint_url: str
    seed: int
    pid: int
    event_loop: str
    _commands: IO[str] = field(repr=False)
    _answers: IO[str] = field(repr=False)
    cpu_s: float = 0.0

    def take(self) -> list[Exchange]:
        """Return the requests that have ended since the last call, in that order; blocks."""
        self._commands.write("take\n")
        self._commands.flush()
        answer = json.loads(self._answers.readline())
        self.cpu_s = float(answer["cpu_s"])
        return [Exchange(*each) for each in answer["ended"]]


@contextmanager
def delay_proxy(upstream: str, *, seed: int | None = None, fixed_s: float | None = None) -> Generator[DelayProxy]:
    """Run a proxy in front of *upstream*, ``http://127.0.0.1:PORT``.

    Args:
        upstream: the server.
        seed: of the delays; drawn, and told in :attr:`DelayProxy.seed`, when None.
        fixed_s: every delay, in seconds, in place of drawing them.
    """
    arguments = ["--upstream", upstream]
    arguments += [] if seed is None else ["--seed", str(seed)]
    arguments += [] if fixed_s is None else ["--fixed-s", str(fixed_s)]
    process = subprocess.Popen(  # noqa: S603  # this interpreter and this package
        [sys.executable, "-m", "benchmarks.delay", *arguments],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if not said:
            raise RuntimeError(f"the delaying proxy ended with exit status {process.wait()}")
        told = json.loads(said)
        endpoint_url = f"http://127.0.0.1:{told['port']}"
        yield DelayProxy(endpoint_url, told["seed"], process.pid, told["loop"], process.stdin, process.stdout)
    finally:
        process.stdin.close()
        try:
            process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
