"""JSON-RPC 2.0 messages: what the gateway has to know of one to pass it on, and what it writes itself.

What a client sends is passed on as it was *understood*, encoded anew: a text that two parsers read differently (a key
that stands there twice, say) must not name one session to the gateway and another to the runtime.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, cast

import orjson

from sessionfs_s3.gateway.errors import RpcError
from sessionfs_s3.gateway.frames import LARGE_BYTES

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
REQUEST_CANCELLED: Final = -32800

Json = object
Id = str | int | float | None

_ID_CHARS_MAX: Final = 256
_BYTES_PER_CONTAINER_MIN: Final = 8
"""A large text of nothing but brackets takes 30 times its size as objects, 2 GB for one message. What programs send has
far fewer, also where it is text that holds JSON."""

_DEPTH_MAX: Final = 126
"""Of what a runtime reads below ``params``."""


class Malformed(Exception):
    """A text is no JSON-RPC message; ``id`` is that of the request that it may have been."""

    def __init__(self, code: int, reason: str, request_id: Id = None) -> None:
        """Say which rule is broken."""
        super().__init__(reason)
        self.code = code
        self.id = request_id


@dataclass(frozen=True, slots=True)
class Request:
    """A request; a notification when it has no id."""

    method: str
    params: Mapping[str, Json]
    id: Id = None
    is_notification: bool = False

    @property
    def session_id(self) -> str | None:
        """The session that its parameters name, None when they name none."""
        named = self.params.get("sessionId")
        return named if isinstance(named, str) else None


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to the request *id*: *body* holds ``result`` or ``error``."""

    id: Id
    body: Mapping[str, Json]


def parse_of_client(text: bytes) -> Request | Response:
    """Return the message that *text* is, unless it is made to take far more memory than its size. Raises Malformed."""
    if len(text) >= LARGE_BYTES and (text.count(b"[") + text.count(b"{")) * _BYTES_PER_CONTAINER_MIN > len(text):
        raise Malformed(INVALID_REQUEST, "more arrays and objects than a message of this size may hold")
    return parse(text)


def parse(text: bytes) -> Request | Response:
    """Return the message that *text* is.

    Raises:
        Malformed: it is not JSON, or no message of JSON-RPC 2.0. Batches, which no SDK sends, are none.
    """
    message = _loads(text)
    if not isinstance(message, dict):
        raise Malformed(INVALID_REQUEST, f"a message is a JSON object, not {_kind(message)}")
    fields = cast("dict[str, Json]", message)
    request_id = fields.get("id")
    if not _is_id(request_id) or (request_id is None and "id" in fields and "method" in fields):
        raise Malformed(INVALID_REQUEST, "an id is a string of at most 256 characters or a number")
    given = cast("Id", request_id)
    if fields.get("jsonrpc") != "2.0":
        raise Malformed(INVALID_REQUEST, 'jsonrpc must be "2.0"', given)
    method = fields.get("method")
    if method is None:
        if ("result" in fields) == ("error" in fields):
            raise Malformed(INVALID_REQUEST, "neither a request, which has a method, nor a response", given)
        return Response(given, fields)
    if not isinstance(method, str):
        raise Malformed(INVALID_REQUEST, f"a method is a string, not {_kind(method)}", given)
    params = _named(fields.get("params"))
    if params is None:
        raise Malformed(INVALID_REQUEST, f"params are a JSON object, not {_kind(fields['params'])}", given)
    return Request(method, params, given, is_notification="id" not in fields)


def encode(message: Request | Response) -> bytes:
    """Return *message* as JSON. Raises Malformed as :func:`dumps`."""
    if isinstance(message, Response):
        return dumps({**message.body, "id": message.id})
    if message.is_notification:
        return dumps({"jsonrpc": "2.0", "method": message.method, "params": message.params})
    return dumps({"jsonrpc": "2.0", "id": message.id, "method": message.method, "params": message.params})


def result(request_id: Id, value: Json) -> bytes:
    """Return the response that carries *value*."""
    return dumps({"jsonrpc": "2.0", "id": request_id, "result": value})


def error(request_id: Id, problem: RpcError) -> bytes:
    """Return the response that carries *problem*."""
    told: dict[str, Json] = {"code": problem.code, "message": problem.message}
    if problem.data is not None:
        told["data"] = problem.data
    return dumps({"jsonrpc": "2.0", "id": request_id, "error": told})


def dumps(value: Json) -> bytes:
    """Return *value* as JSON in ASCII or UTF-8. Raises Malformed when it is nested deeper than can be written."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # A lone surrogate, an integer of over 64 bits or 255 levels, which orjson refuses and JSON allows.
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        except RecursionError:
            raise Malformed(INVALID_REQUEST, "nested too deep to be passed on") from None


def is_id_of_runtimes(number: Id) -> bool:
    """Whether a runtime takes *number* for an id: it answers others under none (seen with 1.0.102)."""
    if isinstance(number, str):
        return not any("\ud800" <= each <= "\udfff" for each in number)
    return isinstance(number, int) and -(2**63) <= number < 2**63


def is_read_by_runtimes(body: bytes, params: Mapping[str, Json]) -> bool:
    """Whether a runtime reads *body*, a request with *params*: it answers what it does not read under no id at all.

    Seen with 1.0.102, whose parser is serde_json: half of a character is none to it, and 128 levels are too deep.
    """
    if b"\\ud" in body:
        try:
            orjson.loads(body)
        except ValueError:
            return False
    if body.count(b"{") + body.count(b"[") < _DEPTH_MAX:
        return True
    level: list[Json] = [params]
    for _ in range(_DEPTH_MAX):
        level = [each for value in level for each in _within(value)]
        if not level:
            return True
    return False


def _within(value: Json) -> Iterable[Json]:
    if isinstance(value, dict):
        return cast("dict[str, Json]", value).values()
    return cast("list[Json]", value) if isinstance(value, list) else ()


def params_of(text: bytes) -> Mapping[str, Json]:
    """Return parameters that :func:`dumps` has written."""
    return cast("Mapping[str, Json]", _loads(text))


def _loads(text: bytes) -> Json:
    try:
        return orjson.loads(text)
    except ValueError as first:
        # Half of a character, cut off by a program that counts in UTF-16, is refused by orjson and allowed by JSON.
        try:
            return json.loads(text.decode(), parse_constant=_refused, parse_float=_finite)
        except (ValueError, RecursionError):
            raise Malformed(PARSE_ERROR, f"not JSON: {str(first)[:200]}") from None


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is infinity when read as a double")
    return number


def _named(params: Json) -> Mapping[str, Json] | None:
    """Return parameters by name; None for what is none."""
    if isinstance(params, list) and len(listed := cast("list[Json]", params)) == 1:
        # How some JSON-RPC libraries send a single argument by position; the runtime takes it as well.
        params = listed[0]
    if params is None:
        return {}
    return cast("dict[str, Json]", params) if isinstance(params, dict) else None


def _is_id(value: Json) -> bool:
    if isinstance(value, str):
        return len(value) <= _ID_CHARS_MAX
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return kinds.get(cast("type[dict[str, Json]]", type(value)), "a number")
