"""Runs a command for as long as the process that asked for it lives, so that no server outlives a killed test run.

``python -m sessionfs_s3.testing.guard DIRECTORY REMOVE… -- COMMAND…``: standard input is the lifeline. When it ends,
because it was closed or because the process at its other end is gone, the command is ended, and DIRECTORY and the files
REMOVE… with it. The first line of standard output is the command's process id; its own output goes to
``DIRECTORY/output``. When the command ends first, so does the guard, with its exit status, and removes nothing.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

OUTPUT_NAME: Final = "output"
STOP_GRACE_S: Final = 10.0
"""How long a command may take to end in peace."""

_POLL_S: Final = 0.1


def end(process: subprocess.Popen[bytes]) -> None:
    """End *process* by its id, and reap it."""
    process.terminate()
    try:
        process.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    split = arguments.index("--")
    directory, *remove = map(Path, arguments[:split])
    signal.signal(signal.SIGTERM, _stop)
    with (directory / OUTPUT_NAME).open("wb") as output:
        process = subprocess.Popen(
            arguments[split + 1 :], cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        os.write(sys.stdout.fileno(), f"{process.pid}\n".encode())
        while process.poll() is None:
            if select.select([sys.stdin], [], [], _POLL_S)[0]:
                break
        else:
            return process.returncode
    finally:
        end(process)
    for path in remove:
        path.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    return 0


def _stop(_number: int, _frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
