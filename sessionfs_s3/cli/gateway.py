"""``sessionfs-s3 gateway``: run a gateway until it is told to go; ``gateway-token``: make a token for a client."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sessionfs_s3.errors import InvalidInput

if TYPE_CHECKING:
    from sessionfs_s3.gateway.runtimes import Source
    from sessionfs_s3.gateway.server import Gateway

_LISTEN = "127.0.0.1:4321"
"""The runtime's own documentation uses this port."""


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The levels of Python's logging."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Isolation(StrEnum):
    """What tenants share."""

    SHARED = "shared"
    TENANT = "tenant"


_Runtime = Annotated[
    list[str] | None,
    typer.Option(help="HOST:PORT of one that runs; its token in SESSIONFS_RUNTIME_TOKEN. Repeatable."),
]
_RuntimePath = Annotated[
    Path | None, typer.Option(envvar="COPILOT_CLI_PATH", help="The runtime's executable; else it is looked for.")
]
_RuntimeEnvironment = Annotated[
    list[str] | None,
    typer.Option(help="NAME or NAME=VALUE for the runtimes' environment, which has nothing else. Repeatable."),
]
_RuntimeCache = Annotated[
    Path | None, typer.Option(envvar="SESSIONFS_RUNTIME_CACHE", help="Where runtimes unpack their code, once.")
]
_Idle = Annotated[
    float | None, typer.Option(min=1, help="Seconds after which a silent client with nothing open is closed.")
]
_Stall = Annotated[float, typer.Option(min=1, help="Seconds after which a client that takes nothing is closed.")]
_Http = Annotated[
    str | None, typer.Option(help="HOST:PORT for /healthz, /readyz and /metrics; port 0: any that is free.")
]
_LogFormat = Annotated[LogFormat, typer.Option(help="text, or json: an object a line. On standard error.")]
_Isolation = Annotated[
    Isolation, typer.Option(help="shared: one pool of runtimes; tenant: runtimes of its own for each tenant.")
]


def gateway(
    store: Annotated[str, typer.Option(envvar="SESSIONFS_STORE", help="s3://bucket/prefix, file:///directory, …")],
    listen: Annotated[str, typer.Option(help="HOST:PORT for clients; port 0: any that is free.")] = _LISTEN,
    runtimes: Annotated[int, typer.Option(min=1, help="How many runtimes to start and keep alive.")] = 2,
    runtime: _Runtime = None,
    runtime_path: _RuntimePath = None,
    runtime_env: _RuntimeEnvironment = None,
    runtime_cache: _RuntimeCache = None,
    tenants: Annotated[Path | None, typer.Option(help="The tenants file: who may connect, as which tenant.")] = None,
    tenant: Annotated[str, typer.Option(help="Without a tenants file: the tenant that everybody is.")] = "default",
    isolation: _Isolation = Isolation.SHARED,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain in PEM: clients connect over TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key in PEM.")] = None,
    drain: Annotated[float, typer.Option(min=0, help="Seconds that running turns get to end after SIGTERM.")] = 30.0,
    idle: _Idle = None,
    stall: _Stall = 30.0,
    http: _Http = None,
    log_format: _LogFormat = LogFormat.TEXT,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged at the least.")] = LogLevel.INFO,
) -> None:
    """Give every SDK, in any language, durable sessions: clients connect here as if it were a runtime.

    Without a tenants file there is one tenant, and clients come from this machine only; where COPILOT_CONNECTION_TOKEN
    is set, they have to bring it. SIGTERM and SIGINT: takes no more sessions, lets turns end, stores all, exits 0.
    """
    try:
        from sessionfs_s3.gateway import logs
        from sessionfs_s3.gateway.auth.authenticator import Authenticator
        from sessionfs_s3.gateway.options import GatewayOptions
        from sessionfs_s3.gateway.server import Gateway
    except ImportError as error:
        raise RuntimeError(f"the gateway needs more packages: pip install 'sessionfs-s3[gateway]' ({error})") from None
    logs.configure(log_format.value, logging.getLevelNamesMapping()[log_level.value.upper()])
    host, port = _address("--listen", listen)
    token = None if tenants is not None else os.environ.get("COPILOT_CONNECTION_TOKEN")
    running = [_address("--runtime", each) for each in runtime or []]
    if running and isolation is Isolation.TENANT:
        raise InvalidInput("--isolation", isolation.value, "needs runtimes that are started here, not --runtime")
    options = GatewayOptions(
        store=store,
        tenant=tenant,
        host=host,
        port=port,
        isolation=isolation.value,
        tls=server_context(tls_cert, tls_key),
        http=None if http is None else _address("--http", http),
        drain_s=drain,
        idle_s=idle,
        stall_s=stall,
    )
    authenticator = Authenticator.load(tenants, default_tenant=tenant, token=token)
    if running:
        sources = _running(running)
    else:
        sources = _launched(runtime_path, runtime_cache, _environment(runtime_env or []), runtimes)
    asyncio.run(_serve(Gateway(options, authenticator, sources, may_grow=not running)))


def gateway_token() -> None:
    """Make a token: the first line is the client's secret, the second goes into the tenants file."""
    from sessionfs_s3.gateway.auth.tokens import new_token

    token, line = new_token()
    typer.echo(token)
    typer.echo(line)


def _launched(
    path: Path | None, cache: Path | None, environment: Mapping[str, str], count: int
) -> Callable[[], list[Source]]:
    from sessionfs_s3.gateway.process import default_cache, find_executable
    from sessionfs_s3.gateway.runtimes import Launched

    executable = path or find_executable()
    return lambda: [Launched(executable, cache or default_cache(), environment)] * count


def _running(addresses: list[tuple[str, int]]) -> Callable[[], list[Source]]:
    from sessionfs_s3.gateway.runtimes import Running

    token = os.environ.get("SESSIONFS_RUNTIME_TOKEN")
    return lambda: [Running(host, port, token) for host, port in addresses]


async def _serve(gateway: Gateway) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        # Whoever means it sends another one: that has its usual effect.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, gateway.reload)
    async with gateway:
        if gateway.http is not None:
            typer.echo(f"sessionfs-s3 gateway: health and metrics by HTTP on port {gateway.http.port}")
        typer.echo(f"sessionfs-s3 gateway listening on port {gateway.port} of {gateway.options.host}")
        await stopping.wait()
        await gateway.drain()


def _address(option: str, text: str) -> tuple[str, int]:
    """Return host and port. Raises InvalidInput."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(option, text, "must be HOST:PORT, an IPv6 address in brackets")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _environment(given: list[str]) -> Mapping[str, str]:
    """Return the variables; a name alone takes its value from this process. Raises InvalidInput."""
    environment: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name or (not equals and name not in os.environ):
            raise InvalidInput("--runtime-env", name, "must be NAME=VALUE, or the name of a variable that is set")
        environment[name] = value if equals else os.environ[name]
    return environment


def server_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return what TLS connections, 1.2 or newer, are made with; None without a certificate. Raises InvalidInput."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise InvalidInput("--tls-cert and --tls-key", f"{certificate}, {key}", "must be given together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput("--tls-cert", str(certificate), f"cannot be used: {error}") from None
    return context
