"""Where a run takes place: one S3 server, one delaying proxy in front of it, and the URLs of both."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from benchmarks.harness.proxy import DelayProxy, delay_proxy
from sessionfs_s3.testing.server_process import REGION, S3Server
from sessionfs_s3.testing.servers import SERVERS

BUCKET: Final = "benchmarks"
TENANT: Final = "acme"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything. The defaults are the issue's own figures; together they take minutes.

    Attributes:
        appends: sequential durable appends on one volume.
        sessions: sessions at once in one process.
        appends_each: appends of each of them.
        commits: commits of the long session that is opened.
        opens: how often each session is opened.
        turns: turns of the conversation whose bytes are counted.
        events_bytes: what they append to the conversation's log.
        idle_sessions: volumes that are open and idle.
        idle_wait_s: how long they idle before memory is measured.
        cpu_appends: appends whose processor time is measured.
        large_mb: size of the large file, in 10^6 bytes.
        database_kb: the largest database, in 10^3 bytes: of 100, 1,000 and 10,000 those that are not larger.
        sql_commits: commits of SQL through a session's database.
        sql_rival_commits: commits of SQL through each of the others, the first of the same.
        restores: how often each database is restored.
        gateway_turns: turns of each client through the gateway, and as many past it.
        gateway_sessions: sessions that hold turns at once.
        gateway_turns_each: turns of each of them in one block.
        gateway_rounds: blocks of either side.
        gateway_idle_clients: clients that are connected and idle.
        gateway_idle_sessions: sessions that are open and idle.
        settings: settings of the session file systems, by name.
    """

    appends: int = 150
    sessions: int = 32
    appends_each: int = 60
    commits: int = 10_000
    opens: int = 11
    turns: int = 150
    events_bytes: int = 3_000_000
    idle_sessions: int = 1000
    idle_wait_s: float = 5.0
    cpu_appends: int = 400
    large_mb: int = 200
    database_kb: int = 10_000
    sql_commits: int = 96
    sql_rival_commits: int = 16
    restores: int = 3
    gateway_turns: int = 24
    gateway_sessions: int = 50
    gateway_turns_each: int = 2
    gateway_rounds: int = 4
    gateway_idle_clients: int = 500
    gateway_idle_sessions: int = 100
    settings: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Lab:
    """The server and the proxy of a run.

    Attributes:
        server: holds the objects.
        proxy: delays what is sent to :meth:`delayed` URLs.
        client: the S3 client that URLs ask for with ``client=``; "" for the adapter's default.
    """

    server: S3Server
    proxy: DelayProxy
    client: str = ""
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def prefix(self) -> str:
        """Return a prefix that holds nothing yet."""
        return f"run-{next(self._numbers)}"

    def direct(self, prefix: str, client: str | None = None) -> str:
        """Return the URL of *prefix* straight at the server."""
        return self._url(self.server.endpoint_url, prefix, client)

    def delayed(self, prefix: str, client: str | None = None) -> str:
        """Return the URL of *prefix* through the delaying proxy."""
        return self._url(self.proxy.endpoint_url, prefix, client)

    def through(self, proxy: DelayProxy, prefix: str) -> str:
        """Return the URL of *prefix* through another proxy of this run's server."""
        return self._url(proxy.endpoint_url, prefix, None)

    def _url(self, endpoint_url: str, prefix: str, client: str | None) -> str:
        chosen = self.client if client is None else client
        more = f"&client={chosen}" if chosen else ""
        return f"s3://{BUCKET}/{prefix}?endpoint_url={quote(endpoint_url, safe='')}&region={REGION}{more}"


@contextmanager
def lab(server_name: str, *, seed: int | None = None, client: str = "") -> Generator[Lab]:
    """Start the server *server_name* and a proxy whose delays are drawn from *seed*; use its credentials meanwhile."""
    with SERVERS[server_name]() as server:
        server.create_bucket(BUCKET)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(server.environment())
        with delay_proxy(server.endpoint_url, seed=seed) as proxy:
            yield Lab(server, proxy, client)


def cpu_s(pid: int) -> float:
    """Return the processor seconds that process *pid* has used, or 0.0 where there is no ``/proc``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waited_s(pid: int | None = None) -> float:
    """Return how long the main thread of process *pid*, or of this one, was ready to run and had no core, in seconds.

    Linux's own figure (``/proc/<pid>/schedstat``, the second field, nanoseconds); 0.0 where there is none.
    """
    try:
        return int(Path(f"/proc/{pid or 'self'}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def say(text: str) -> None:
    """Tell whoever watches what is going on, apart from the results."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
