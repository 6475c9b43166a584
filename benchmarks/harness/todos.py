"""What an agent keeps in its session's database: todos and notes, from a seed, beside a plain SQLite that has them.

Text is single words of Python's documentation, drawn one by one: it compresses as words do, to 0.3 of its size, and
never because a whole passage stood there before. Reads files of Python's standard library; writes none.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator
from typing import Final

from benchmarks.harness.conversation import Words

PAGE_BYTES: Final = 4096
"""Size of a database page: SQLite's default, and what the session's database and sqlite-s3vfs both use."""

SCHEMA: Final = """
CREATE TABLE todos (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, description TEXT, status TEXT DEFAULT 'pending', updated_at TEXT
);
CREATE TABLE notes (id INTEGER PRIMARY KEY, todo_id TEXT REFERENCES todos (id), body TEXT NOT NULL);
CREATE INDEX notes_of_todo ON notes (todo_id);
"""

COUNTS: Final = (
    "SELECT (SELECT count(*) FROM todos) AS todos, (SELECT count(*) FROM notes) AS notes, "
    "(SELECT sum(length(body)) FROM notes) AS characters, (SELECT count(*) FROM todos WHERE status = 'done') AS done"
)
"""Answers alike for databases that hold the same."""

_CORPUS_CHARACTERS: Final = 200_000
_STATES: Final = ("pending", "in_progress", "done", "blocked")
_NOTES_EACH: Final = 4
"""Notes for each todo while the database grows."""


class TodoList:
    """Makes statements for a database, and has applied each to a database of its own."""

    def __init__(self, seed: int) -> None:
        """Begin with an empty database; draw from *seed*."""
        self._random = random.Random(seed)  # noqa: S311  # has to be repeatable, not secret
        self._words = re.findall(r"[A-Za-z]{2,}", Words(seed).prose(_CORPUS_CHARACTERS))
        self._database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._todos: list[str] = []
        self._notes = 0

    @property
    def size(self) -> int:
        """Size of the database in bytes."""
        pages: int = self._database.execute("PRAGMA page_count").fetchone()[0]
        return pages * PAGE_BYTES

    def image(self) -> bytes:
        """Return the database file."""
        return self._database.serialize()

    def counts(self) -> dict[str, int]:
        """Return what :data:`COUNTS` answers."""
        cursor = self._database.execute(COUNTS)
        return dict(zip((name for name, *_ in cursor.description), cursor.fetchone(), strict=True))

    def grow(self, size: int, step_bytes: int) -> Iterator[str]:
        """Return scripts of about *step_bytes* each, a transaction each, until the database has *size* bytes.

        Todos sort by their titles and not by their age, and every sixth statement changes an old note: so that the
        pages that a script changes lie all over the file.
        """
        if not self._todos:
            yield self._applied(SCHEMA)
        while self.size < size:
            statements: list[str] = []
            length = 0
            while length < step_bytes and (not statements or length < size - self.size):
                statements += [self._new_todo(), *(self._new_note() for _ in range(_NOTES_EACH)), self._other_note()]
                length += sum(map(len, statements[-_NOTES_EACH - 2 :]))
            yield self._applied("\n".join(statements))

    def change(self) -> str:
        """Return one statement: of a hundred 40 change a state, 30 add a note, 20 add a todo, 10 change a note."""
        kinds = (self._state, self._new_note, self._new_todo, self._other_note)
        (kind,) = self._random.choices(kinds, (40, 30, 20, 10))
        return self._applied(kind())

    def close(self) -> None:
        """Give the database up."""
        self._database.close()

    def _applied(self, sql: str) -> str:
        self._database.executescript(f"BEGIN; {sql} COMMIT;")
        return sql

    def _text(self, words: int) -> str:
        return " ".join(self._random.choices(self._words, k=words))

    def _new_todo(self) -> str:
        title = self._text(3)
        self._todos.append(f"{title.lower().replace(' ', '-')}-{len(self._todos)}")
        return _inserted(
            "todos", self._todos[-1], title, self._text(self._random.randrange(10, 40)), "pending", self._time()
        )

    def _new_note(self) -> str:
        self._notes += 1
        return _inserted("notes", self._notes, self._random.choice(self._todos), self._body())

    def _other_note(self) -> str:
        return _updated("notes", self._random.randrange(self._notes) + 1, body=self._body())

    def _state(self) -> str:
        state = self._random.choice(_STATES)
        return _updated("todos", self._random.choice(self._todos), status=state, updated_at=self._time())

    def _body(self) -> str:
        return self._text(self._random.randrange(20, 120))

    def _time(self) -> str:
        clock = [self._random.randrange(60) for _ in range(3)]
        return "2026-11-21 {:02}:{:02}:{:02}".format(clock[0] % 24, *clock[1:])


def _inserted(table: str, *values: str | int) -> str:
    return f"INSERT INTO {table} VALUES ({', '.join(map(repr, values))});"  # noqa: S608  # words of letters, all its own


def _updated(table: str, row_id: str | int, **values: str) -> str:
    changes = ", ".join(f"{name} = {value!r}" for name, value in values.items())
    return f"UPDATE {table} SET {changes} WHERE id = {row_id!r};"  # noqa: S608  # as above
