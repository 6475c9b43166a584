"""What a session on a runtime that tenants share may not ask for, and what is taken out of its parameters. Pure.

All sessions of a runtime run as one user of one host. Whoever can read that host's files can read the runtime's own
connection token (``/proc/<pid>/environ``, tried with the agent's ``bash`` tool), connect past the gateway, and resume
every session there; so neither the agent nor the client of a shared runtime gets at the host at all. With runtimes of a
tenant's own nothing here applies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

OPTION_METHODS: Final = ("session.create", "session.options.update", "session.resume", "sessions.open")
"""What takes the options of a session: at the top, ``sessions.open`` under ``options``."""

HOST_TOOLS: Final = (
    *("bash", "list_bash", "read_bash", "stop_bash", "write_bash"),
    *("list_powershell", "powershell", "read_powershell", "stop_powershell", "write_powershell"),
    *("glob", "grep"),
    *("dynamic_workflows_manage", "run_dynamic_workflow"),
    *("context_board", "read_inbox", "send_inbox", "session_store_sql"),
)
"""Built-in tools that see the host's disk or run something there, or hold what several sessions meet in. Sub-agents
lose them with their session, as was tried. A client's own tools of these names are another matter, and stay."""

_EXCLUDED: Final = tuple(f"builtin:{name}" for name in HOST_TOOLS)

_UNSHARED: Final[Mapping[str, object]] = {
    "enableGitHubTelemetryForwarding": False,
    "enableSessionStore": False,
    "embeddingCacheStorage": "in-memory",
    "mcpOAuthTokenStorage": "in-memory",
}
"""Where sessions of one runtime would meet. The session store is on by default: ``session-store.db`` in the runtime's
home holds every prompt, of sessions with a provider too, and the agent has a tool to search it."""

_HOST_OPTIONS: Final = (
    *("configDir", "eventsLogDirectory", "extensionSdkPath", "trajectoryFile"),
    *("agentDirectories", "hookDirectories", "instructionDirectories", "pluginDirectories", "skillDirectories"),
    *("installedPlugins", "requestExtensions"),
    *("cloud",),
)
"""Options that name files of the host, or programs to be run there, or a session that is not kept in the store."""

LOCAL_KINDS: Final = ("attach", "create", "resume", "resumeLast")
"""The kinds of ``sessions.open`` that open one of the tenant's own sessions; the others bring in a foreign one."""

_PERSISTED_DECISIONS: Final = ("approve-for-location", "approve-permanently")
"""Answers to a permission request that the runtime keeps in its home, for every session to come."""

_HOST: Final = "reaches files or programs of the runtime's host, which all its sessions share"
_SETTINGS: Final = "it would change what holds for every session of the runtime"


def beyond(method: str, params: object) -> str | None:
    """Return why a request about one session reaches beyond it, None when it does not."""
    return next(_reaches(method, _object(params)), None)


def shared_params(method: str, params: object) -> object:
    """Return *params* for a runtime that tenants share: without host tools, and the stores where sessions would meet.

    What :func:`beyond` refuses is not looked at again. Where nothing has to change, *params* itself comes back.
    """
    if method == "connect":
        return {**_object(params), "enableGitHubTelemetryForwarding": False}
    if method == "sessions.open":
        options = _object(_object(params).get("options"))
        return {**_object(params), "options": {**options, **_UNSHARED, **_tool_filter(options)}}
    if method in ("session.create", "session.resume"):
        return {**_object(params), **_UNSHARED, **_tool_filter(_object(params))}
    if method == "session.options.update":
        return _updated(params)
    return params


def _updated(params: object) -> object:
    """Return an update of options: what it leaves alone stays as it was, and that was taken out before."""
    given = _object(params)
    changed: dict[str, object] = {}
    if "enableSessionStore" in given:
        changed["enableSessionStore"] = False
    if any(name in given for name in ("availableTools", "excludedTools", "toolFilterPrecedence")):
        changed |= _tool_filter(given)
    return {**given, **changed} if changed else params


def _tool_filter(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options that exclude the host's tools, and what the client excludes.

    By default the runtime heeds only the list of available tools where there is one; an exclusion that has to hold
    needs the other precedence. The client's own exclusions, which would not have counted then, are left out.
    """
    excluded = options.get("excludedTools")
    counts = options.get("toolFilterPrecedence") == "excluded" or not isinstance(options.get("availableTools"), list)
    own = cast("list[object]", excluded) if counts and isinstance(excluded, list) else []
    return {"excludedTools": [*own, *_EXCLUDED], "toolFilterPrecedence": "excluded"}


def _reaches(method: str, given: Mapping[str, object]) -> Iterator[str]:
    if method in OPTION_METHODS:
        yield from _options_reach(method, given)
    if method in ("session.mcp.restartServer", "session.mcp.startServer") and _runs(given.get("config")):
        yield f"an MCP server that is a program {_HOST}"
    if method == "session.mcp.reloadWithConfig" and _any_runs(_object(given.get("config")).get("mcpServers")):
        yield f"an MCP server that is a program {_HOST}"
    decision = _object(given.get("result")).get("kind")
    if method == "session.permissions.handlePendingPermissionRequest" and decision in _PERSISTED_DECISIONS:
        yield _SETTINGS
    if method == "session.permissions.modifyRules" and given.get("scope") == "location":
        yield _SETTINGS
    if method == "session.mode.set" and (given.get("pickerSettingsContext") or given.get("persistPlanSelection")):
        yield _SETTINGS
    if method == "session.model.switchTo" and given.get("pickerPersistence") is not None:
        yield _SETTINGS


def _options_reach(method: str, given: Mapping[str, object]) -> Iterator[str]:
    if method == "sessions.open":
        if given.get("kind") not in LOCAL_KINDS:
            yield "it brings in a session that is not kept in the store"
        given = _object(given.get("options"))
    for name in _HOST_OPTIONS:
        # An empty list, and false, ask for nothing.
        if given.get(name) not in (None, False, []):
            yield f"its option {name!r} {_HOST}"
    agents = given.get("customAgents")
    own = (
        [_object(agent).get("mcpServers") for agent in cast("list[object]", agents)] if isinstance(agents, list) else []
    )
    if any(map(_any_runs, [given.get("mcpServers"), *own])):
        yield f"an MCP server that is a program {_HOST}"


def _any_runs(servers: object) -> bool:
    return any(map(_runs, _object(servers).values()))


def _runs(server: object) -> bool:
    """Whether an MCP server is a program that the runtime starts: anything but one that only has an address."""
    config = _object(server)
    return bool(config) and ("command" in config or "url" not in config)


def _object(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
