"""Answering a runtime's ``sessionFs.*`` requests: the SDK's own adapter over the provider of whichever session it is.

The SDK's generated handlers translate parameters and results; here they are called by name, without an SDK client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

from copilot.generated.rpc import ClientSessionApiHandlers, register_client_session_api_handlers
from copilot.session_fs_provider import create_session_fs_adapter

from sessionfs_s3.copilot import SessionProvider
from sessionfs_s3.gateway.errors import METHOD_NOT_FOUND, RpcError
from sessionfs_s3.gateway.messages import Json

if TYPE_CHECKING:
    from copilot._jsonrpc import JsonRpcClient

PREFIX: Final = "sessionFs."

_Handler = Callable[[Mapping[str, Json]], Awaitable[Json]]


class SessionFsMethods:
    """What a runtime may ask of the provider slot's holder."""

    def __init__(self, handlers_of: Callable[[str], ClientSessionApiHandlers]) -> None:
        """Answer for the sessions that *handlers_of* knows; it raises RpcError for others."""
        self._handlers: dict[str, _Handler] = {}
        register_client_session_api_handlers(cast("JsonRpcClient", self), handlers_of)

    def set_request_handler(self, method: str, handler: _Handler) -> None:
        """Take a handler of the SDK's: called by the SDK."""
        if method.startswith(PREFIX):
            self._handlers[method] = handler

    async def answer(self, method: str, params: Mapping[str, Json]) -> Json:
        """Return the result of *method*.

        Raises:
            RpcError: there is no such method, or no such session here.
            Exception: what the SDK's types make of parameters that are not what they should be.
        """
        handler = self._handlers.get(method)
        if handler is None:
            raise RpcError(METHOD_NOT_FOUND, f"Unhandled method {method}")
        return await handler(params)


def handlers_for(provider: SessionProvider) -> ClientSessionApiHandlers:
    """Return the SDK's handlers over *provider*."""
    return ClientSessionApiHandlers(session_fs=create_session_fs_adapter(provider))
