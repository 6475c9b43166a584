"""The fork server: a small process that makes workers by forking itself, and the handle by which a host asks it to.

Starting an interpreter for each database would take 20 ms of processor time and 10 MB; a fork takes 1 ms, and shares
most of its memory. The server has one thread, no session's data, an empty environment and no descriptor of its host's.
It ends when its host does, however that ends.

``multiprocessing`` has a fork server, too. Its children import the host's main module once more, which a library must
not do to its users, and they unpickle what they are sent.
"""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw

from sessionfs_s3 import errors
from sessionfs_s3.sqlite.worker import serve

_REQUEST: Final = struct.Struct(">cQH")  # operation, number of the worker, length of the path that follows
_FORK: Final = b"f"
_KILL: Final = b"k"
_STOP_S_MAX: Final = 1.0

# The standard library first: what stands in it must not be taken from anywhere else.
_MAIN: Final = f"import sys; sys.path += sys.argv[2:]; from {__name__} import main; main()"


class ForkServer:
    """A host's handle on its fork server, which is started with the first worker. Safe to use from any thread."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._count = 0
        # Another thread may hold the lock while the host forks: in the child, nobody would ever release it.
        os.register_at_fork(after_in_child=self._renew_lock)

    def fork(self, directory: Path) -> tuple[int, socket.socket]:
        """Make a worker, whose files are in *directory*; return its number and this host's end of its socket.

        The worker makes the directory. Whenever the worker ends, however that happens, the server removes it.
        Blocks for some tens of milliseconds when the server has to be started.

        Raises:
            OSError: no process can be made.
        """
        mine, theirs = socket.socketpair()
        try:
            with theirs, self._lock:
                self._count += 1
                path = os.fsencode(directory)
                request = _REQUEST.pack(_FORK, self._count, len(path)) + path
                try:
                    self._send(request, theirs)
                except OSError:
                    self._stop()  # it has died: the next one serves as well
                    self._send(request, theirs)
                return self._count, mine
        except BaseException:
            mine.close()
            raise

    def kill(self, number: int) -> None:
        """End worker *number* at once, if it still runs."""
        with self._lock:
            if self._control is not None and self._owner == os.getpid():
                with suppress(OSError):
                    self._control.send(_REQUEST.pack(_KILL, number, 0))

    def stop(self) -> None:
        """End the server, and its workers with it."""
        with self._lock:
            self._stop()

    def _send(self, request: bytes, descriptor: socket.socket) -> None:
        if self._control is not None and self._owner != os.getpid():
            self._stop()  # the host has forked: the server is its parent's
        if self._control is None:
            self._control, self._process = _started()
            self._owner = os.getpid()
            atexit.register(self.stop)
        socket.send_fds(self._control, [request], [descriptor.fileno()])

    def _stop(self) -> None:
        control, process = self._control, self._process
        self._control = self._process = None
        if control is None or process is None:
            return
        control.close()
        if self._owner == os.getpid():
            try:
                process.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        else:
            process.returncode = 0  # not this process's child: nothing to wait for
        atexit.unregister(self.stop)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()


def _started() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    if not sys.executable or getattr(sys, "frozen", False):
        # A program that was packed as one file would start itself.
        raise OSError(errno.ENOSYS, f"the Python interpreter {sys.executable!r} cannot be started")
    mine, theirs = socket.socketpair()
    paths = dict.fromkeys(str(Path(str(module.__file__)).resolve().parents[1]) for module in (errors, apsw))
    try:
        with theirs:
            process = subprocess.Popen(  # noqa: S603  # this interpreter, and nothing that anybody gave
                [sys.executable, "-I", "-S", "-c", _MAIN, str(theirs.fileno()), *paths],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # what a terminal sends to the host is the host's to handle
            )
    except BaseException:
        mine.close()
        raise
    return mine, process


def main() -> None:
    """Serve the host whose socket has the descriptor number that stands in ``sys.argv[1]``."""
    # Until here the host's standard error has shown what was wrong with the start.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stderr.fileno())
    os.close(nothing)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        server = _Server(control)
        try:
            while server.serve_once():
                pass
        finally:
            server.end()


@contextmanager
def _unreaped() -> Generator[None]:
    """Reap no child meanwhile: the number of a process in the table is then no other process's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


class _Server:
    """The server's side: forks, and keeps the numbers and directories of those of its children that still run."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._workers: dict[int, tuple[int, str]] = {}
        signal.signal(signal.SIGCHLD, self._reap)

    def serve_once(self) -> bool:
        """Do what the host asks next; return whether there is a host."""
        data, descriptors, *_ = socket.recv_fds(self._control, _REQUEST.size, 1)
        if len(data) < _REQUEST.size:
            return False
        operation, number, length = _REQUEST.unpack(data)
        if operation == _KILL:
            self._kill(number)
            return True
        directory = os.fsdecode(self._control.recv(length, socket.MSG_WAITALL))
        with socket.socket(fileno=descriptors[0]) as host, _unreaped(), suppress(OSError):
            # Where no process can be made, the host finds its socket closed.
            pid = os.fork()
            if not pid:
                self._become_worker(host, directory)
            self._workers[pid] = number, directory
        return True

    def end(self) -> None:
        """End every worker, and see to it that nothing of them stays."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        for worker, (_, directory) in self._workers.items():
            os.waitpid(worker, 0)
            shutil.rmtree(directory, ignore_errors=True)

    def _kill(self, number: int) -> None:
        with _unreaped():
            for pid in [pid for pid, (each, _) in self._workers.items() if each == number]:
                os.kill(pid, signal.SIGKILL)

    def _become_worker(self, host: socket.socket, directory: str) -> None:
        status = 1
        try:
            self._control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            serve(host, Path(directory))
            status = 0
        except BaseException:  # noqa: BLE001, S110  # nothing may get out into the server's own code
            pass
        finally:
            os._exit(status)

    def _reap(self, *_signal: object) -> None:
        # The signal may come again in the middle of this: the inner call meets what the outer one has not noted yet.
        with suppress(ChildProcessError):
            while True:
                ended, _status = os.waitpid(-1, os.WNOHANG)
                if not ended:
                    return
                _number, directory = self._workers.pop(ended)
                shutil.rmtree(directory, ignore_errors=True)
