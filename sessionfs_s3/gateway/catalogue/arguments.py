"""The parameters of catalogue calls, checked as the runtime checks them: the same is accepted, the same is refused.

Pure. A client sends any JSON here; what breaks a rule becomes the runtime's own error, never another exception.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Final, TypeGuard, cast

from sessionfs_s3.gateway.errors import RpcError, failed

_ABSENT: Final = object()
_SESSION_ID: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
SESSION_ID_CHARS_MAX: Final = 255
"""Of a session's directory on a file system, which is where the runtime meets the limit; the store's is the same."""

TOO_LONG: Final = "File name too long (os error 36)"
"""What the runtime says of a longer one."""

SESSION_IDS_MAX: Final = 1000
"""Of one request: each costs the store requests of its own. The runtime, on its own disk, has no limit."""

_SHOWN_CHARS_MAX: Final = 300
NAME_CHARS_MAX: Final = 100
"""Of a session's name; the runtime's own limit."""


class Arguments:
    """The parameters of one request."""

    def __init__(self, method: str, params: object) -> None:
        """Read *params*; what is no object has no members, as for the runtime."""
        self.method = method
        self._params: Mapping[str, object] = cast("Mapping[str, object]", params) if isinstance(params, Mapping) else {}

    def has(self, name: str) -> bool:
        """Whether parameter *name* was given, be it as null."""
        return name in self._params

    def names(self) -> list[str]:
        """Return the parameters that were given, in their order."""
        return list(self._params)

    def get(self, name: str) -> object:
        """Return parameter *name* as it came, None where it is missing."""
        return self._params.get(name)

    def error(self, why: str) -> RpcError:
        """Return the error that refuses the request."""
        return failed(self.method, why)

    def text(self, name: str) -> str:
        """Return a string that has to be there."""
        value = self._params.get(name)
        if not isinstance(value, str):
            raise self.error(f"missing or non-string parameter '{name}'")
        return value

    def number(self, name: str) -> float:
        """Return a number that has to be there."""
        value = self._params.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(f"missing or non-number parameter '{name}'")
        return value

    def array(self, name: str) -> list[object]:
        """Return an array that has to be there."""
        value = self._params.get(name)
        if not isinstance(value, list):
            raise self.error(f"missing or non-array parameter '{name}'")
        return cast("list[object]", value)

    def flag(self, name: str) -> bool:
        """Return whether parameter *name* is true; anything but a boolean is false."""
        return self._params.get(name) is True

    def part(self, name: str) -> Mapping[str, object] | None:
        """Return an object, None where there is none."""
        value = self._params.get(name)
        return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else None

    def session_id(self, name: str = "sessionId") -> str:
        """Return the id of a session, as the newer methods check it."""
        return self._checked(self._params.get(name, _ABSENT))

    def legacy_session_id(self) -> str:
        """Return the id of a session, as ``session.getMetadata`` checks it."""
        if not isinstance(self._params.get("sessionId"), str):
            raise self.error("Missing sessionId parameter")
        return self.session_id()

    def session_ids(self, name: str = "sessionIds") -> list[str]:
        """Return a list of ids that has to be there, repeated ones as often as they came."""
        values = self.array(name)
        if len(values) > SESSION_IDS_MAX:
            raise self.error(
                f"parameter '{name}' names {len(values)} sessions, and at most {SESSION_IDS_MAX} are allowed"
            )
        return [self._checked(value) for value in values]

    def _checked(self, value: object) -> str:
        if not is_session_id(value):
            raise self.error(f"Invalid sessionId: {_shown(value)}")
        if len(value) > SESSION_ID_CHARS_MAX:
            raise self.error(TOO_LONG)
        return value


def is_session_id(value: object) -> TypeGuard[str]:
    """Whether the runtime takes *value* for the id of a session."""
    return isinstance(value, str) and _SESSION_ID.fullmatch(value) is not None


def name_error(name: str) -> str | None:
    """Return which of the runtime's rules the session name *name* breaks, None when it breaks none."""
    if not name:
        return "Session name cannot be empty."
    if name != name.strip():
        return "Session name must not have leading or trailing whitespace."
    if len(name) > NAME_CHARS_MAX:
        return f"Session name must be {NAME_CHARS_MAX} characters or less."
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 or 0xD800 <= ord(char) < 0xE000 for char in name):
        return "Session name must not contain control characters."
    if '"' in name:
        return "Session name must not contain double quotes."
    return None


def _shown(value: object) -> str:
    """Return *value* as JavaScript would print it; of a long one only the beginning."""
    if value is _ABSENT:
        return "undefined"
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
