"""Primitive values on the wire: a writer, and a reader that checks every length before it takes a byte."""

from __future__ import annotations

from typing import Final

from sessionfs_s3.format.limits import MODE_MAX, PAYLOAD_BYTES_MAX, RECORDS_MAX, TIME_MS_MAX

_UINT_BYTES_MAX: Final = 9
"""Bytes of the longest variable-length integer: nine groups of 7 bits, so values below 2**63."""


class Malformed(Exception):
    """Bytes break a rule of the format; ``offset`` is where, in bytes from the start of what was read."""

    def __init__(self, offset: int, reason: str) -> None:
        """Say which rule is broken, and where."""
        super().__init__(f"byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class Writer:
    """Collects values; :meth:`to_bytes` gives them in one piece.

    Every method raises ``ValueError`` for what a :class:`Reader` would refuse.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._parts: list[bytes] = []
        self._size = 0
        self._records = 0

    def records(self, count: int) -> None:
        """Announce *count* more records, of which there are at most :data:`RECORDS_MAX` in all."""
        self._records += count
        if self._records > RECORDS_MAX:
            raise ValueError(f"more than {RECORDS_MAX} records")

    def uint(self, value: int) -> None:
        """Write an unsigned integer below 2**63: 7 bits a byte, low bits first, bit 7 set on all but the last."""
        if not 0 <= value < 1 << 7 * _UINT_BYTES_MAX:
            raise ValueError(f"{value} is not an unsigned integer below 2**63")
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
        self.raw(bytes(out))

    def mode(self, value: int) -> None:
        """Write permission bits."""
        if value > MODE_MAX:
            raise ValueError(f"mode {value:#o} is over {MODE_MAX:#o}")
        self.uint(value)

    def time(self, value_ms: int) -> None:
        """Write a time in milliseconds since the Unix epoch."""
        if value_ms > TIME_MS_MAX:
            raise ValueError(f"time {value_ms} ms is over {TIME_MS_MAX} ms")
        self.uint(value_ms)

    def raw(self, data: bytes) -> None:
        """Write bytes as they are, without their length."""
        # Before anything is joined, so that a state of any size costs no memory when it is refused.
        self._size += len(data)
        if self._size > PAYLOAD_BYTES_MAX:
            raise ValueError(f"a payload of over {PAYLOAD_BYTES_MAX} bytes")
        self._parts.append(data)

    def blob(self, data: bytes) -> None:
        """Write a length and that many bytes."""
        self.uint(len(data))
        self.raw(data)

    def text(self, value: str) -> None:
        """Write a string as the length of its UTF-8 form, and that."""
        self.blob(value.encode())

    def to_bytes(self) -> bytes:
        """Return everything written so far."""
        return b"".join(self._parts)


class Reader:
    """Takes values off the front of *data*. Every method raises :class:`Malformed` where the bytes do not fit."""

    def __init__(self, data: bytes) -> None:
        """Read *data* from its start."""
        self._data = data
        self._records = 0
        self.offset = 0

    @property
    def remaining(self) -> int:
        """How many bytes have not been taken yet."""
        return len(self._data) - self.offset

    def records(self, count: int) -> None:
        """Check that *count* more records, on top of those before, are not over :data:`RECORDS_MAX`."""
        self._records += count
        if self._records > RECORDS_MAX:
            raise Malformed(self.offset, f"{self._records} records announced, {RECORDS_MAX} are allowed")

    def mode(self) -> int:
        """Take permission bits."""
        return self._bounded("mode", MODE_MAX)

    def time(self) -> int:
        """Take a time in milliseconds since the Unix epoch."""
        return self._bounded("time", TIME_MS_MAX)

    def uint(self) -> int:
        """Take an unsigned integer in its shortest form."""
        value = 0
        for index in range(_UINT_BYTES_MAX):
            if self.offset >= len(self._data):
                raise Malformed(self.offset, "ends inside an integer")
            byte = self._data[self.offset]
            self.offset += 1
            value |= (byte & 0x7F) << 7 * index
            if byte <= 0x7F:
                if index and not byte:
                    raise Malformed(self.offset - 1, "integer not in its shortest form")
                return value
        raise Malformed(self.offset - 1, "integer of more than 63 bits")

    def raw(self, size: int) -> bytes:
        """Take *size* bytes."""
        if size > self.remaining:
            raise Malformed(self.offset, f"{size} bytes announced, {self.remaining} left")
        start = self.offset
        self.offset += size
        return self._data[start : self.offset]

    def blob(self) -> bytes:
        """Take a length and that many bytes."""
        return self.raw(self.uint())

    def text(self) -> str:
        """Take a string."""
        start = self.offset
        try:
            return self.blob().decode()
        except UnicodeDecodeError:
            raise Malformed(start, "text is not UTF-8") from None

    def end(self) -> None:
        """Check that nothing is left."""
        if self.remaining:
            raise Malformed(self.offset, f"{self.remaining} bytes too many")

    def _bounded(self, what: str, most: int) -> int:
        start = self.offset
        value = self.uint()
        if value > most:
            raise Malformed(start, f"{what} {value} is over {most}")
        return value
