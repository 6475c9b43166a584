"""What a runtime sends of its own accord, whom it may be passed on to, and which parameter says whose it is.

Pure; a security boundary. A runtime sends ``session.lifecycle`` to every connection, and some requests to whichever
connection has registered for them: the gateway passes on only what a row here allows, to the clients of the tenant that
the gateway's own table of (runtime, session) names. What names no session, a session that is nobody's, or a method
without a row, is passed to nobody: a request is then answered with an error, so that the runtime does not wait.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast


class Recipient(enum.Enum):
    """Whom a message of a runtime may reach."""

    OPENER = "the client connection that opened the session on this runtime last: it has the handlers"
    ATTACHED = "the tenant's connections that have created or resumed the session"
    TENANT = "the tenant's connections whose credential permits the session"
    PROVIDER = "the gateway itself, which serves the session's files"
    NOBODY = "nobody: it is about the runtime, or about sessions of all tenants"


@dataclass(frozen=True)
class Passage:
    """One row: to whom, and the path to the parameter that names the session; empty where there is none."""

    recipient: Recipient
    session_parameter: str = "sessionId"


_OPENER: Final = Passage(Recipient.OPENER)
_PROVIDER: Final = Passage(Recipient.PROVIDER)
_NOBODY: Final = Passage(Recipient.NOBODY, "")

PASSAGES: Final[Mapping[str, Passage]] = {
    # Not in the schema: what the SDKs listen to, and what the runtime was seen to tell whoever is attached.
    "host.event": Passage(Recipient.ATTACHED, "scope.sessionId"),
    "session.event": Passage(Recipient.ATTACHED),
    "session.lifecycle": Passage(Recipient.TENANT),
    "autoModeSwitch.request": _OPENER,
    "exitPlanMode.request": _OPENER,
    "permission.request": _OPENER,
    "systemMessage.transform": _OPENER,
    "tool.call": _OPENER,
    "userInput.request": _OPENER,
    # Of the schema's clientSession.
    "canvas.action.invoke": _OPENER,
    "canvas.close": _OPENER,
    "canvas.open": _OPENER,
    "providerToken.getToken": _OPENER,
    "skillProvider.list": _OPENER,
    "skillProvider.read": _OPENER,
    "tasks.cancel": _OPENER,
    "workflow.abort": _OPENER,
    "workflow.execute": _OPENER,
    "sessionFs.appendFile": _PROVIDER,
    "sessionFs.exists": _PROVIDER,
    "sessionFs.mkdir": _PROVIDER,
    "sessionFs.readFile": _PROVIDER,
    "sessionFs.readFileBytes": _PROVIDER,
    "sessionFs.readdir": _PROVIDER,
    "sessionFs.readdirWithTypes": _PROVIDER,
    "sessionFs.rename": _PROVIDER,
    "sessionFs.rm": _PROVIDER,
    "sessionFs.sqliteExists": _PROVIDER,
    "sessionFs.sqliteQuery": _PROVIDER,
    "sessionFs.sqliteTransaction": _PROVIDER,
    "sessionFs.stat": _PROVIDER,
    "sessionFs.writeFile": _PROVIDER,
    "sessionFs.writeFileBytes": _PROVIDER,
    # Of the schema's clientGlobal. These two name their session; a token is asked of the client that offered it.
    "gitHubToken.getToken": _OPENER,
    "hooks.invoke": _OPENER,
    # Telemetry names a session, but comes for all sessions of the runtime, and for none.
    "gitHubTelemetry.event": _NOBODY,
    # Nobody can register for these on a shared runtime; see PROCESS in method_tables.
    "extensionLaunchProvider.resolve": _NOBODY,
    "host.exited": _NOBODY,
    "host.materializeSession": _NOBODY,
    "host.registerSession": _NOBODY,
    "host.sessionReleased": _NOBODY,
    "host.shutdown": _NOBODY,
    "host.unregisterSession": _NOBODY,
    "host.validateAuthentication": _NOBODY,
    "installations.confirm": _NOBODY,
    "llmInference.httpRequestChunk": _NOBODY,
    "llmInference.httpRequestStart": _NOBODY,
    # Only ever inside one process.
    "uiThread.run": _NOBODY,
}
"""By method. With runtimes of a tenant's own (``--isolation tenant``) :data:`OWN_RUNTIME` comes first."""

OWN_RUNTIME: Final[Mapping[str, Passage]] = {
    "extensionLaunchProvider.resolve": Passage(Recipient.TENANT, ""),
    "gitHubTelemetry.event": Passage(Recipient.TENANT),
    "host.exited": Passage(Recipient.TENANT, ""),
    "host.materializeSession": Passage(Recipient.TENANT, ""),
    "host.registerSession": Passage(Recipient.TENANT),
    "host.sessionReleased": Passage(Recipient.TENANT, ""),
    "host.shutdown": Passage(Recipient.TENANT, ""),
    "host.unregisterSession": Passage(Recipient.TENANT),
    "host.validateAuthentication": Passage(Recipient.TENANT, ""),
    "installations.confirm": Passage(Recipient.OPENER, "policySessionId"),
    "llmInference.httpRequestChunk": Passage(Recipient.TENANT, ""),
    "llmInference.httpRequestStart": Passage(Recipient.TENANT),
}
"""What may pass besides where a runtime is one tenant's: to the connection of the tenant that registered for it."""


def passage(method: str, *, own_runtime: bool = False) -> Passage:
    """Return to whom a message of a runtime may be passed; to nobody if the method is unknown.

    Args:
        method: of the request or notification.
        own_runtime: whether the runtime serves one tenant only.
    """
    if own_runtime and (row := OWN_RUNTIME.get(method)) is not None:
        return row
    return PASSAGES.get(method, _NOBODY)


def session_named(method: str, params: object, *, own_runtime: bool = False) -> str | None:
    """Return the session that a message of a runtime names, None where it names none."""
    found = params
    for name in passage(method, own_runtime=own_runtime).session_parameter.split("."):
        found = cast("Mapping[str, object]", found).get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None


def deleted_notice(session_id: str) -> dict[str, object]:
    """Return the parameters of the ``session.lifecycle`` that a runtime sends when a session is deleted.

    The gateway deletes in the store, and no runtime notices: it sends this to the tenant's connections by itself.
    """
    return {"type": "session.deleted", "sessionId": session_id}
