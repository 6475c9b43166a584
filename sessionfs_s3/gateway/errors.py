"""The errors that a client of the gateway is answered: the runtime's own codes and words, so that no SDK sees a change.

Every text here was recorded from the runtime (npm package ``@github/copilot`` 1.0.102) on local disk; the tests ask it
again. Imports nothing of the gateway.
"""

from __future__ import annotations

from typing import Final, Protocol

METHOD_NOT_FOUND: Final = -32601
FAILED: Final = -32603
"""JSON-RPC's "internal error": the runtime answers nearly every refusal with it."""


class RpcError(Exception):
    """An error answer of JSON-RPC.

    Attributes:
        code: JSON-RPC's number of the error.
        message: what the client is told.
        data: more about it, a JSON value; None where there is nothing more.
    """

    def __init__(self, code: int, message: str, data: object | None = None) -> None:
        """Answer with *code* and *message*."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        """Return the message: the code has a place of its own."""
        return self.message


class Coded(Protocol):
    """An exception that knows its JSON-RPC code; its text is its message."""

    code: int


def as_answer(problem: Coded) -> RpcError:
    """Return *problem* as an error answer."""
    return problem if isinstance(problem, RpcError) else RpcError(problem.code, str(problem))


def failed(method: str, why: str) -> RpcError:
    """Return the runtime's answer to a request of *method* that it took in and could not carry out."""
    return RpcError(FAILED, f"Request {method} failed with message: {why}")


def unhandled(method: str) -> RpcError:
    """Return the runtime's answer to a method that it does not know."""
    return RpcError(METHOD_NOT_FOUND, f"Unhandled method {method}")


_NOT_OPEN_WORDS: Final = {
    "session.getMessages": "Session not found: {id}",
    "session.resume": "Failed to load session events: Session not found: {id}",
}
_NOT_OPEN_ANSWERS: Final[dict[str, dict[str, object]]] = {
    "session.detach": {"success": True},
    "session.destroy": {"success": False},
    "sessions.loadDeferredRepoHooks": {"startupPrompts": [], "hookCount": 0},
    "sessions.open": {"status": "not_found"},
    "sessions.reloadPluginHooks": {},
    "sessions.save": {},
}


def not_open(method: str, session_id: str) -> dict[str, object]:
    """Return what the runtime answers to *method* when the session is not open there, or raise its error.

    The same for a session that another tenant has open: nothing tells the two apart.

    Raises:
        RpcError: the answer is an error.
    """
    if (answer := _NOT_OPEN_ANSWERS.get(method)) is not None:
        return dict(answer)
    raise failed(
        method, _NOT_OPEN_WORDS.get(method, "Session not found for sessionId: {id}").replace("{id}", session_id)
    )
