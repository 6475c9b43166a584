"""How an S3 server is to be reached; apart from the client, so that naming it does not import one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Connections and timeouts.

    Attributes:
        connections_max: connections at once; further requests wait for one, so it must be at least the concurrency.
        connect_timeout_s: for a connection, TLS included.
        read_timeout_s: for the next bytes of an answer.
        request_timeout_s: for a request as a whole; nothing else bounds waiting for a connection, and sending.
    """

    connections_max: int = 64
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    request_timeout_s: float = 60.0
