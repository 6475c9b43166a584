"""How a gateway behaves."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How a gateway behaves. Durations are in seconds, sizes in bytes.

    Attributes:
        store: the URL of the store.
        tenant: the one that everybody is, where there is no tenants file.
        host: the address that it listens on.
        port: the port; 0: any that is free.
        isolation: ``"shared"``: all tenants share the runtimes; ``"tenant"``: each has runtimes of its own, started
            when it comes and stopped when it has been away.
        tls: for connections over TLS; None: plain TCP.
        handshake_s: how long a connection may take to say who it is.
        handshakes_max: how many connections may be at that side by side; more are closed.
        frame_s: how long a frame may take from its first byte to its last.
        stall_s: how long a client may take nothing of what it is sent.
        idle_s: how long a client that has no session open may say nothing; None: for ever. Peers that are gone are
            found by TCP keepalive.
        tenant_idle_s: after how long without a connection a tenant's own runtimes are stopped.
        http: host and port of health, readiness and metrics; port 0: any that is free; None: none of them.
        drain_s: how long turns that are running get to end when the gateway goes down.
    """

    store: str
    tenant: str = "default"
    host: str = "127.0.0.1"
    port: int = 0
    isolation: Literal["shared", "tenant"] = "shared"
    tls: ssl.SSLContext | None = None
    handshake_s: float = 10.0
    handshakes_max: int = 1024
    frame_s: float = 60.0
    stall_s: float = 30.0
    idle_s: float | None = None
    tenant_idle_s: float = 300.0
    http: tuple[str, int] | None = None
    drain_s: float = 30.0
