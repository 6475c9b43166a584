"""Splitting SQL text into statements, in linear time and without executing any. Pure.

The rules are those of ``sqlite3_complete`` (SQLite's src/complete.c): a statement ends at a semicolon outside of
strings, quoted names and comments, and a CREATE TRIGGER ends only at ``; END;``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""(?P<space>[\ \t\r\n\f]+ | --[^\n]* | /\*.*?(?:\*/|\Z))
      | (?P<quoted>'[^']*'? | "[^"]*"? | `[^`]*`? | \[[^\]]*\]?)
      | (?P<semicolon>;)
      | (?P<word>[A-Za-z0-9_$\x80-\U0010ffff]+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)

# States and transitions of complete.c. A token that has no entry leads to the state under "other".
_INVALID, _START, _NORMAL, _EXPLAIN, _CREATE, _TRIGGER, _SEMICOLON, _END = range(8)
_NEXT: tuple[dict[str, int], ...] = (
    {";": _START, "space": _INVALID, "EXPLAIN": _EXPLAIN, "CREATE": _CREATE, "other": _NORMAL},
    {";": _START, "space": _START, "EXPLAIN": _EXPLAIN, "CREATE": _CREATE, "other": _NORMAL},
    {";": _START, "other": _NORMAL},
    {";": _START, "space": _EXPLAIN, "EXPLAIN": _NORMAL, "CREATE": _CREATE, "TEMP": _NORMAL, "TRIGGER": _NORMAL}
    | {"END": _NORMAL, "other": _EXPLAIN},
    {";": _START, "space": _CREATE, "TEMP": _CREATE, "TRIGGER": _TRIGGER, "other": _NORMAL},
    {";": _SEMICOLON, "other": _TRIGGER},
    {";": _SEMICOLON, "space": _SEMICOLON, "END": _END, "other": _TRIGGER},
    {";": _START, "space": _END, "other": _TRIGGER},
)
_KEYWORDS = {"EXPLAIN", "CREATE", "TEMP", "TRIGGER", "END"}
_MAIN_VERBS = {"SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE"}


def split(sql: str) -> list[str]:
    """Return the statements of *sql* in order, each without its semicolon; empty ones are left out.

    What is no complete statement at the end of the text is one more: SQLite says what is wrong with it.
    """
    statements: list[str] = []
    state, begin, empty = _INVALID, 0, True
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "semicolon":
            key = ";"
        elif token.lastgroup == "space":
            key = "space"
        else:
            key, empty = _keyword(token), False
        table = _NEXT[state]
        following = table[key] if key in table else table["other"] if key != "space" else state
        if key == ";" and following == _START:
            if not empty:
                statements.append(sql[begin : token.start()].strip())
            begin, empty = token.end(), True
        state = following
    if not empty:
        statements.append(sql[begin:].strip())
    return statements


def _keyword(token: re.Match[str]) -> str:
    word = token.group().upper() if token.lastgroup == "word" else "other"
    if word == "TEMPORARY":
        return "TEMP"
    return word if word in _KEYWORDS else "other"


def significant(statement: str) -> Iterator[str]:
    """Yield the tokens of *statement* in upper case, without space and comments; what is quoted keeps its quotes."""
    return (token.group().upper() for token in _TOKEN.finditer(statement) if token.lastgroup != "space")


def main_verb(statement: str) -> str:
    """Return the keyword that says what *statement* does: its first token, or the one that follows its WITH clause."""
    tokens = significant(statement)
    first = next(tokens, "")
    if first != "WITH":
        return first
    depth, previous = 0, first
    for text in tokens:
        # The main verb follows the last common table expression; anywhere else the same word may be a name.
        if depth == 0 and previous == ")" and text in _MAIN_VERBS:
            return text
        depth += (text == "(") - (text == ")")
        previous = text
    return first
