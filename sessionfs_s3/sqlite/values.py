"""How values cross between JSON and SQLite. Pure.

To SQLite (named parameters; a key may carry the prefix ``:``, ``@`` or ``$``, or none):

========================  ==========================================================
None                      NULL
whole number in ±2**53    INTEGER, since JSON's numbers arrive as floats
other float               REAL (NaN is refused: SQLite would store NULL for it)
int beyond ±2**53         INTEGER, exactly, if it fits 64 bits; else refused
bool                      INTEGER 0 or 1
str                       TEXT; lone surrogates become U+FFFD
bytes                     BLOB
========================  ==========================================================

From SQLite:

========================  ==========================================================
NULL                      None
INTEGER in ±(2**53 - 1)   int
INTEGER beyond            str of decimal digits, since JSON readers would round it
REAL                      float; infinities as "Infinity" and "-Infinity"
TEXT                      str; an error for bytes that are not UTF-8
BLOB                      str: "base64:" and standard base64
========================  ==========================================================
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping

from sessionfs_s3.errors import shown
from sessionfs_s3.sqlite.records import JsonValue, Parameter, SqlError

_WHOLE_FLOAT_MAX = 2**53  # up to here every whole number has a float of its own
_SAFE_INTEGER_MAX = 2**53 - 1  # ECMAScript's Number.MAX_SAFE_INTEGER
_SURROGATE = re.compile("[\ud800-\udfff]")
_PREFIXES = (":", "@", "$")


class Bindings(dict[str, "int | float | str | bytes | None"]):
    """Parameters by bare name, as SQLite asks for them; a name that is missing is an :class:`SqlError`."""

    def __missing__(self, name: str) -> int | float | str | bytes | None:
        """Name the parameter that the statement needs and the call did not give."""
        raise SqlError(f"no value was given for the parameter :{name}")


def bindings(params: Mapping[str, Parameter] | None) -> Bindings:
    """Return *params* ready for SQLite. Names that a statement does not use are ignored.

    Raises:
        SqlError: a value has no SQLite type, or two keys differ only in their prefix.
    """
    bound = Bindings()
    for key, value in (params or {}).items():
        name = key[1:] if key.startswith(_PREFIXES) else key
        if name in bound:
            raise SqlError(f"the parameter {shown(name)} is given twice, under different prefixes")
        bound[name] = _to_sqlite(name, value)
    return bound


def _to_sqlite(name: str, value: object) -> int | float | str | bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise SqlError(f"the parameter {shown(name)} is {shown(value)}: integers have at most 64 bits")
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            raise SqlError(f"the parameter {shown(name)} is not a number")
        return int(value) if abs(value) <= _WHOLE_FLOAT_MAX and value.is_integer() else value
    raise SqlError(f"the parameter {shown(name)} is {shown(value)}: neither null, a number nor a string")


def well_formed(text: str) -> str:
    """Return *text* with lone surrogates, which UTF-8 cannot carry, replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def to_json(value: object) -> JsonValue:
    """Return a column's *value* in the form that the table above gives."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _SAFE_INTEGER_MAX else str(value)
    if isinstance(value, float):
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return value
    if isinstance(value, bytes):
        return "base64:" + base64.b64encode(value).decode("ascii")
    raise TypeError(f"SQLite has no type for {shown(value)}")


def utf8_bytes(text: str) -> int:
    """Return how many bytes *text* takes in UTF-8; lone surrogates as many as what stands for them."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
