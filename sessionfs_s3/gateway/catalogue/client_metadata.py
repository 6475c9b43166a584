"""What a client has written about its session: the file that the runtime keeps it in, read without the runtime.

Pure. The contents are a client's own; anything may stand there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, cast

FILE_NAME: Final = "client-metadata.json"
"""Under the state directory, as ``session.metadata.updateClientMetadata`` was seen to write it."""

_VERSION: Final = 1
_ENTRIES_MAX: Final = 128


def client_metadata(content: bytes | None, keys: Sequence[object] | None) -> dict[str, object]:
    """Return what the file that the runtime keeps says: the outcome, and the *keys* that were asked for."""
    if content is None:
        return {"status": "ok", "metadata": {}}
    try:
        decoded: object = json.loads(content)
    except (ValueError, RecursionError):
        return {"status": "corrupt"}
    document = cast("dict[str, object]", decoded) if isinstance(decoded, dict) else {}
    version, found = document.get("version"), document.get("metadata")
    if isinstance(version, int) and version != _VERSION:
        return {"status": "unsupportedVersion"}
    bag = cast("dict[str, object]", found) if isinstance(found, dict) else None
    sound = bag is not None and len(bag) <= _ENTRIES_MAX
    if version != _VERSION or bag is None or not sound:
        return {"status": "corrupt"}
    if not all(isinstance(value, str) for value in bag.values()):
        return {"status": "corrupt"}
    return {"status": "ok", "metadata": {key: bag[key] for key in bag if keys is None or key in keys}}
