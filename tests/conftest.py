"""Fixtures about stores that tests of every layer share: S3 servers, and this machine's AWS settings kept out.

Each worker of pytest-xdist starts the servers that its tests ask for. A test that is marked with its server's group
(``xdist_group("moto")``) runs where that server runs already.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from sessionfs_s3.testing.servers import (
    S3Server,
    ServerNotHere,
    ServerUnavailable,
    minio_server,
    ministack_server,
    moto_server,
    seaweedfs_server,
)
from sessionfs_s3.testing.unfit_servers import localbucket_server, rclone_server, s3rver_server

BUCKET = "sessions"

_numbers = itertools.count()

_T = TypeVar("_T")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make the groups hold: pytest-xdist 3.8 writes them where pytest 9.2 does not look (issue 1386 of pytest-xdist).

    Each worker would start every server, and none of them would be asked by one test after the other.
    """
    for item in items:
        grouped = vars(item).get("_nodeid")
        if grouped is not None and grouped != item.nodeid:
            item._id = type(item._id).parse(grouped)


@pytest.fixture(autouse=True)
def no_aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own AWS settings reaches a test, and no test asks a metadata service for credentials."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with running(moto_server()) as server:
        yield server


@pytest.fixture(scope="session")
def ministack() -> Iterator[S3Server]:
    with running(ministack_server()) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Server]:
    with running(seaweedfs_server()) as server:
        yield server


@pytest.fixture(scope="session")
def minio() -> Iterator[S3Server]:
    with running(minio_server()) as server:
        yield server


@pytest.fixture(scope="session")
def s3rver() -> Iterator[S3Server]:
    with running(s3rver_server()) as server:
        yield server


@pytest.fixture(scope="session")
def rclone() -> Iterator[S3Server]:
    with running(rclone_server()) as server:
        yield server


@pytest.fixture(scope="session")
def localbucket() -> Iterator[S3Server]:
    with running(localbucket_server()) as server:
        yield server


@pytest.fixture
def enter(no_aws_settings: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[S3Server], str]:
    """Make this process use a server: ``enter(moto)`` sets its credentials and returns the URL of an empty prefix."""

    def use(server: S3Server) -> str:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        return server.store_url(BUCKET, f"test-{os.getpid()}-{next(_numbers)}")

    return use


@contextlib.contextmanager
def running(starting: contextlib.AbstractContextManager[S3Server]) -> Iterator[S3Server]:
    """Enter *starting*, as :func:`available` does, and make the bucket."""
    with available(starting) as server:
        server.create_bucket(BUCKET)
        yield server


@contextlib.contextmanager
def available(starting: contextlib.AbstractContextManager[_T]) -> Iterator[_T]:
    """Enter *starting*; skip, or fail under SESSIONFS_REQUIRE_SERVERS=1, where the server does not start.

    A server that this machine has no means of bringing here is skipped in any case, with the reason.
    """
    with contextlib.ExitStack() as exits:
        try:
            server = exits.enter_context(starting)
        except ServerNotHere as error:
            pytest.skip(str(error))
        except ServerUnavailable as error:
            if os.environ.get("SESSIONFS_REQUIRE_SERVERS") == "1":
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield server
