"""``workspace.yaml``, the runtime's own note of a session: reading its top-level texts, and replacing lines of it.

The runtime writes flat YAML: a key at the start of a line, and a scalar. That much is understood here, in every style
that a scalar may have; anything else makes the document one that is not understood, as it does for the runtime. An edit
leaves every byte but those of the edited entries as it was. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_ENTRY: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)[ \t]*:(?:[ \t]+(.*))?", re.DOTALL)
_BLOCK: Final = re.compile(r"([|>])(?:([+-])?([1-9])?|([1-9])([+-]))(?:[ \t]+#.*|[ \t]*)")
_COMMENT: Final = re.compile(r"(?:^|[ \t])#.*")
_BREAKS: Final = re.compile(r"[ \t]*\n[ \t]*((?:\n[ \t]*)*)")
_RARE_BREAKS: Final = re.compile("([\x85\u2028\u2029])[ \t]*")
_ESCAPE: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|\n[ \t]*|(.))", re.DOTALL)
_ESCAPED: Final = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b",
    " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029",
}  # fmt: skip
"""YAML 1.2, chapter 5.7."""

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_PLAIN: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9_.()-]*(?: [A-Za-z0-9_.()-]+)*|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
"""What no parser takes for anything but a string, unless it is reserved: words, and a UUID."""

_RESERVED: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_UNPRINTABLE: Final = re.compile('[\0-\x1f"\\\\\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]')


@dataclass(frozen=True, slots=True)
class _Entry:
    """Lines *start* to *stop* of a document: the key, what follows it on its line, and the lines after that."""

    key: str
    start: int
    stop: int
    value: str
    rest: tuple[str, ...]


class Malformed(ValueError):
    """Not a flat YAML document of scalars."""


def read(text: str) -> Mapping[str, str]:
    """Return the scalars of the document *text* by key, as text; those that are null are left out.

    Raises:
        Malformed: it is something else.
    """
    found: dict[str, str] = {}
    for entry in _entries(_lines(text)):
        scalar = _scalar(entry)
        if scalar is not None:
            found[entry.key] = scalar
    return found


def edited(text: str, values: Mapping[str, str | None]) -> str:
    """Return the document *text* with *values*: texts as :func:`quoted` gives them, None to leave the key out.

    A key that is missing is added at the end. Everything else stays as it was, byte for byte.

    Raises:
        Malformed: as in :func:`read`.
    """
    lines = _lines(text)
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    out: list[str] = []
    at = 0
    missing = dict(values)
    for entry in _entries(lines):
        if entry.key not in values:
            continue
        out.extend(lines[at : entry.start])
        at = entry.stop
        value = missing.pop(entry.key, None)  # of a key that stands there twice the second goes
        if value is not None:
            out.append(f"{entry.key}: {value}{end}")
    out.extend(lines[at:])
    if out and not out[-1].endswith("\n"):
        out[-1] += end
    out.extend(f"{key}: {value}{end}" for key, value in missing.items() if value is not None)
    return "".join(out)


def quoted(text: str) -> str:
    """Return *text* as a YAML scalar on one line that every parser reads as a string."""
    if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return '"' + _UNPRINTABLE.sub(_escape, text) + '"'


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in '"\\':
        return "\\" + character
    return f"\\u{ord(character):04x}"


def _lines(text: str) -> list[str]:
    """Return the lines with their ends; only a newline ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _entries(lines: list[str]) -> list[_Entry]:
    starts: list[tuple[int, str, str]] = []
    ends: list[int] = []
    for index, line in enumerate(lines):
        bare = line.rstrip("\r\n").removeprefix("\ufeff") if not index else line.rstrip("\r\n")
        if not bare or bare[0] in " \t#" or bare in {"---", "..."}:
            if not starts and bare[:1] in {" ", "\t"} and bare.strip(" \t"):
                raise Malformed(f"line {index + 1} belongs to no key")
            if bare[:1] == "#" or bare in {"---", "..."}:
                ends.append(index)
            continue
        found = _ENTRY.fullmatch(bare)
        if found is None:
            raise Malformed(f"line {index + 1} begins no entry")
        starts.append((index, found[1], found[2] or ""))
    entries: list[_Entry] = []
    for number, (start, key, value) in enumerate(starts):
        stop = starts[number + 1][0] if number + 1 < len(starts) else len(lines)
        stop = next((end for end in ends if start < end < stop), stop)
        rest = tuple(line.rstrip("\r\n") for line in lines[start + 1 : stop])
        entries.append(_Entry(key, start, stop, value, rest))
    return entries


def _scalar(entry: _Entry) -> str | None:
    value = entry.value.strip(" \t")
    block = _BLOCK.fullmatch(value)
    if block is not None:
        indent = block[3] or block[4]
        return _block(entry.rest, block[1] == ">", block[2] or block[5] or "", int(indent) if indent else 0)
    text = "\n".join([value, *entry.rest]).strip(" \t\n")
    if text[:1] == "'":
        return _single(text)
    if text[:1] == '"':
        return _double(text)
    plain = _folded("\n".join(_COMMENT.sub("", line) for line in text.split("\n"))).strip(" \t\n")
    if plain[:1] and plain[0] in "[]{}&*!|>%@`,":
        raise Malformed(f"{entry.key}: not a scalar")
    if ": " in plain or plain.endswith(":"):
        raise Malformed(f"{entry.key}: a mapping inside a scalar")
    return None if plain in _NULLS else plain


def _single(text: str) -> str:
    found = re.match(r"'((?:[^']|'')*)'[ \t]*(?:#[^\n]*)?$", text)
    if found is None:
        raise Malformed("a single quote is not closed")
    return _folded(found[1].replace("''", "'"))


def _double(text: str) -> str:
    found = re.match(r'"((?:[^"\\]|\\.)*)"[ \t]*(?:#[^\n]*)?$', text, re.DOTALL)
    if found is None:
        raise Malformed("a double quote is not closed")
    # Line breaks first: one that is escaped joins its lines, and what an escape stands for is no break.
    body = re.sub(r"(?<!\\)((?:\\\\)*)" + _BREAKS.pattern, lambda each: each[1] + _fold(each[2]), found[1])
    return _ESCAPE.sub(_unescape, _RARE_BREAKS.sub(r"\1", body))


def _unescape(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if digits:
        number = int(digits, 16)
        if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
            return "\ufffd"
        return chr(number)
    if found[4] is None:
        return ""
    if found[4] not in _ESCAPED:
        raise Malformed(f"unknown escape {found[0]!r}")
    return _ESCAPED[found[4]]


def _folded(text: str) -> str:
    """Return a quoted or plain scalar of several lines as one text (YAML 1.2, chapter 6.5)."""
    return _RARE_BREAKS.sub(r"\1", _BREAKS.sub(lambda found: _fold(found[1]), text))


def _fold(empty_lines: str) -> str:
    return "\n" * empty_lines.count("\n") or " "


def _block(lines: tuple[str, ...], folded: bool, chomping: str, indent: int) -> str:
    """Return a block scalar (YAML 1.2, chapter 8.1)."""
    first = next((line for line in lines if line.strip(" ")), "")
    indent = indent or len(first) - len(first.lstrip(" "))
    body = [line[indent:] for line in lines]
    if any(line[:indent].strip(" ") for line in lines):
        raise Malformed("a line of a block is not indented")
    while body and not body[-1]:
        body.pop()
    text = _folded_lines(body) if folded else "\n".join(body)
    if chomping == "-" or not text:
        return text
    return text + "\n" * (1 + len(lines) - len(body) if chomping == "+" else 1)


def _folded_lines(lines: list[str]) -> str:
    """Return *lines* with single breaks between lines of text as spaces; those that are indented further stay."""
    out = ""
    empty = 0
    before: str | None = None
    for line in lines:
        if not line:
            empty += 1
            continue
        if before is not None:
            kept = before[0] in " \t" or line[0] in " \t"
            out += "\n" * (empty + 1) if kept else ("\n" * empty or " ")
        elif empty:
            out += "\n" * empty
        out += line
        before, empty = line, 0
    return out
