"""A live database with its replica, closed at the end, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessionfs_s3.sqlite import Limits
from tests.sqlite.replica import Replica

Opener = Callable[..., Replica]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Return a function that opens a database with the limits that it is given."""
    made: list[Replica] = []

    def opener(clock: Callable[[], float] | None = None, **limits: float) -> Replica:
        directory = tmp_path / f"session-{len(made)}"
        directory.mkdir()
        made.append(Replica(directory, Limits(**limits), clock))  # type: ignore[arg-type] # each names its own limit
        return made[-1]

    yield opener
    for replica in made:
        replica.live.close()
        assert list(replica.scratch.iterdir()) == []


@pytest.fixture
def database(opened: Opener) -> Replica:
    """A new database with the default limits."""
    return opened()
