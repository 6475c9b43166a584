"""Every error that this package raises on purpose; imports nothing of it.

Three families, told apart by who handles them:

* :class:`InvalidInput`: a tenant, session id, URL or setting that is not acceptable. Raised before anything is
  written; the message names the value and the rule.
* :class:`SessionFsError`: an :class:`OSError` with a true ``errno``, named by what the caller does next
  (:class:`Unavailable` retry, :class:`InUse` come later, :class:`CommitUnknown` reopen and look, :class:`Fenced` stop,
  :class:`Corrupt` stop and restore, :class:`Refused` mend the configuration). Ordinary file errors are Python's own
  ``OSError`` subclasses.
* :class:`StoreAnswer`: what an object store answered to one request. The engine decides what each means; none of them
  is an ``OSError``, so that a missing *object* can never be mistaken for a missing *file*.
"""

from __future__ import annotations

import errno
from typing import Self

_SHOWN_CHARS_MAX = 80


def shown(value: object) -> str:
    """Return *value* as it may stand in a message: its ``repr``, shortened to 80 characters."""
    text = repr(value[: _SHOWN_CHARS_MAX + 1]) if isinstance(value, (str, bytes)) else repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"


class InvalidInput(ValueError):
    """A name, URL or setting breaks a rule; the message names both. Nothing was written."""

    def __init__(self, what: str, value: object, rule: str) -> None:
        """Describe *value*, which was given as *what* (``"tenant"``, ``"store URL"``), by the *rule* it breaks."""
        super().__init__(f"{what} {shown(value)}: {rule}")
        self.what = what
        self.rule = rule


class SessionFsError(OSError):
    """Base of the errors of an open session file system; ``errno`` is always set."""

    code = errno.EIO

    def __init__(self, message: str) -> None:
        """Carry *message* together with the class's own ``errno``."""
        super().__init__(self.code, message)

    def again(self) -> Self:
        """Return an equal error, to be raised for the same reason somewhere else."""
        twin = type(self).__new__(type(self))
        OSError.__init__(twin, *self.args)
        twin.__dict__.update(self.__dict__)
        return twin


class Unavailable(SessionFsError):
    """The store did not answer within the deadline, and nothing was changed. Retry later."""


class Refused(SessionFsError):
    """The store refuses the request for good: credentials, permission, bucket name. Mend the configuration."""


class CommitUnknown(SessionFsError):
    """The fate of a commit is unknown: it may or may not be stored. Reopen the session and look."""


class Fenced(SessionFsError):
    """Another writer has taken the session over; nothing more of this one is stored. Stop, or reopen."""

    code = errno.ESTALE


class InUse(SessionFsError):
    """Somebody else writes to the session, and it is not to be taken over while they do. Nothing was changed."""

    code = errno.EBUSY


class Corrupt(SessionFsError):
    """An object is not what was written: stop, and restore it. Never returned as data.

    Attributes:
        key: the object's key in the store.
        offset: where in the object the decoder stopped, in bytes.
        reason: which rule of the format is broken.
    """

    def __init__(self, key: str, offset: int, reason: str) -> None:
        """Name the object, the offset in bytes, and the rule that is broken."""
        super().__init__(f"{key}: corrupt at byte {offset}: {reason}")
        self.key = key
        self.offset = offset
        self.reason = reason


class Closed(SessionFsError):
    """The volume or session file system was closed, or is open for reading only."""

    code = errno.EBADF


class StoreAnswer(Exception):
    """Base of the answers that a store gives to one request; ``key`` is the object's."""

    def __init__(self, key: str, detail: str = "") -> None:
        """Say which *key* was asked for and, where there is more to know, the server's own *detail*."""
        super().__init__(f"{key}: {detail}" if detail else key)
        self.key = key
        self.detail = detail


class KeyNotFound(StoreAnswer):
    """404: no object has this key."""


class PreconditionFailed(StoreAnswer):
    """412: the precondition does not hold. After a lost response it may be one's own object that stands there."""


class Conflict(StoreAnswer):
    """409: another conditional request was under way; nothing was stored by this one."""


class NoAnswer(StoreAnswer):
    """Timeout, reset, 5xx, 503 SlowDown: the request may or may not have been carried out."""


class Denied(StoreAnswer):
    """400, 401, 403, no such bucket: the store refuses, and a retry would be refused again. Nothing was stored."""
