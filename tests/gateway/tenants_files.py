"""Tenants files for tests, written as TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path


def toml(values: Mapping[str, object]) -> str:
    """Return *values* as TOML, one key a line, tables inline."""
    return "".join(f"{key_text(key)} = {value_text(value)}\n" for key, value in values.items())


def value_text(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            # A JSON string is a basic string of TOML, but for DEL.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case int() | float():
            return repr(value)
        case datetime():
            return value.isoformat()
        case Mapping():
            return "{" + ", ".join(f"{key_text(key)} = {value_text(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(value_text, value)) + "]"
        case _:
            raise TypeError(f"{value!r} is nothing of TOML")


def key_text(key: object) -> str:
    return value_text(str(key))


def write(path: Path, values: Mapping[str, object]) -> Path:
    """Write *values* to the tenants file at *path*, for its owner only."""
    path.write_text(toml(values), "utf-8")
    path.chmod(0o600)
    return path


def one_tenant(hashed: str, **token: object) -> dict[str, object]:
    """Return a tenants file of the tenant ``acme`` with one token."""
    return {"tenants": [{"id": "acme", "tokens": [{"label": "build", "hash": hashed, **token}]}]}
