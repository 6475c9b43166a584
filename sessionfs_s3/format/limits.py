"""The bounds of the format, the same for encoder and decoder.

What is written can therefore be read again, and whatever is read takes bounded memory.
"""

from __future__ import annotations

from typing import Final

PAYLOAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""Largest payload, decompressed: bounds what a decoder may be made to allocate."""

RECORDS_MAX: Final = 1 << 20
"""Most operations and extents in one commit together, and most nodes in one snapshot.

A record takes a few bytes of payload but up to some hundred once decoded, and Zstandard folds equal ones into next to
nothing: without this bound an object of 30 KB would decode to gigabytes.
"""

ID_BYTES: Final = 16
"""Length of a writer's id and of a nonce."""

SEQUENCE_MAX: Final = (1 << 64) - 1
"""Largest sequence number: that of the slot ``0000000000000000``."""

MODE_MAX: Final = 0o7777
"""Permission, set-id and sticky bits; nothing else of a mode is stored."""

TIME_MS_MAX: Final = 253_402_300_799_999
"""Latest time, in milliseconds since the Unix epoch: the end of the year 9999, the last that Python can name."""
