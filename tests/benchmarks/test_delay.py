"""The delaying proxy delays and counts what it says: read from its own records, never from a clock of the test."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Iterator

import pytest

from benchmarks.delay import MEDIAN_S, SIGMA, Body, Delays
from benchmarks.harness.exchanges import NO_FRAME, Exchange, by_verb, round_trips, uncompressed_bytes, verb_of
from benchmarks.harness.proxy import DelayProxy, delay_proxy
from sessionfs_s3.errors import PreconditionFailed
from sessionfs_s3.format import encode_commit
from sessionfs_s3.format.commit import CHAIN_START, Commit
from sessionfs_s3.fs import Content, WriteFile
from sessionfs_s3.store import IF_ABSENT, Store, open_store
from sessionfs_s3.testing.servers import S3Server

SEED = 11


@pytest.fixture
def proxy(ministack: S3Server) -> Iterator[DelayProxy]:
    with delay_proxy(ministack.endpoint_url, seed=SEED) as running:
        yield running


def through(proxy: DelayProxy, server_url: str, server: S3Server) -> str:
    """Return *server_url* with the proxy in the server's place."""
    where = server.endpoint_url.rpartition(":")[2]
    assert where in server_url
    return server_url.replace(where, proxy.endpoint_url.rpartition(":")[2])


async def converse(store: Store) -> None:
    """One request of each verb, one refusal, and eight at once."""
    await store.put("a", b"x" * 100_000, condition=IF_ABSENT)
    assert (await store.get("a")).data == b"x" * 100_000
    assert len((await store.list("")).entries) == 1
    with pytest.raises(PreconditionFailed):
        await store.put("a", b"again", condition=IF_ABSENT)
    await asyncio.gather(*(store.put(f"b{n}", bytes([n]), condition=IF_ABSENT) for n in range(8)))
    await store.delete(["a", "b1"])


@pytest.mark.servers
@pytest.mark.parametrize("name", ["ministack", pytest.param("seaweedfs", marks=pytest.mark.xdist_group("seaweedfs"))])
async def test_it_counts_every_request_and_gives_each_its_delay(
    name: str, request: pytest.FixtureRequest, enter: Callable[[S3Server], str]
) -> None:
    """On a server that checks signatures, too: the Host header arrives as the client signed it."""
    server: S3Server = request.getfixturevalue(name)
    url = enter(server)
    with delay_proxy(server.endpoint_url, seed=SEED) as proxy:
        assert proxy.seed == SEED
        store = await open_store(through(proxy, url, server))
        await converse(store)
        seen = proxy.take()
        assert proxy.take() == [], "taken once"
        await store.aclose()
    assert by_verb(seen) == {"DELETE": 1, "GET": 1, "LIST": 1, "PUT": 10}
    assert sorted(each.status for each in seen) == [200] * 12 + [412]
    puts = [each for each in seen if each.verb == "PUT"]
    assert sum(each.bytes_up for each in puts) == 100_000 + len(b"again") + 8
    assert next(each for each in seen if each.verb == "GET").bytes_down == 100_000
    assert all(each.started_s <= each.answered_s <= each.ended_s for each in seen)
    # Up to one millisecond of the event loop's rounding: an answer never leaves earlier than was drawn for it.
    assert all(each.held_s > each.delay_s - 0.001 for each in seen)
    drawing = Delays(SEED)
    drawn = [drawing.draw_s(each.verb) for each in sorted(seen, key=lambda each: each.started_s)]
    assert sorted(each.delay_s for each in seen) == sorted(drawn)
    assert round_trips(seen) >= 6, "six steps, one after the other"


@pytest.mark.servers
async def test_a_delay_holds_up_no_other_connection(ministack: S3Server, enter: Callable[[S3Server], str]) -> None:
    url = enter(ministack)
    with delay_proxy(ministack.endpoint_url, fixed_s=1.5) as proxy:
        store = await open_store(through(proxy, url, ministack))
        await asyncio.gather(*(store.put(f"k{n}", b"1", condition=IF_ABSENT) for n in range(6)))
        seen = proxy.take()
        await store.aclose()
    assert {each.delay_s for each in seen} == {1.5}
    assert len({each.connection for each in seen}) == 6
    assert round_trips(seen) == 1, "all of them were under way at once"


@pytest.mark.servers
async def test_it_reads_what_a_frame_says_of_its_payload(
    proxy: DelayProxy, ministack: S3Server, enter: Callable[[S3Server], str]
) -> None:
    write = WriteFile(("a",), Content.of(b"text " * 5000), 0o644, 0)
    commit = Commit(1, 1, bytes(16), bytes(16), CHAIN_START, 0, claim=True, operations=(write,))
    frame, _ = encode_commit(commit)
    assert len(frame) < 5000
    store = await open_store(through(proxy, enter(ministack), ministack))
    await store.put("framed", frame, condition=IF_ABSENT)
    await store.put("other", b"SFS3 is not all it takes", condition=IF_ABSENT)
    await store.aclose()
    framed, other = proxy.take()
    assert framed.payload_bytes > 25_000
    assert other.payload_bytes == NO_FRAME
    assert uncompressed_bytes([framed, other]) == framed.payload_bytes + 24


def test_delays_are_lognormal_with_the_stated_medians() -> None:
    print(f"seed {SEED}")
    delays = Delays(SEED)
    for verb, median_s in MEDIAN_S.items():
        logs = [math.log(delays.draw_s(verb) / median_s) for _ in range(4000)]
        assert abs(statistics.fmean(logs)) < 0.02
        assert abs(statistics.stdev(logs) - SIGMA) < 0.02


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_the_end_of_a_body_is_found_however_it_arrives(step: int) -> None:
    chunked = b"5;x=1\r\nhello\r\n10\r\n" + b"0123456789abcdef" + b"\r\n0\r\nTrailer: 1\r\n\r\n"
    for body, data in ((Body("chunked"), chunked), (Body("length", 40), b"\r\n" * 20)):
        arriving = data + b"next"
        taken = 0
        while not body.done:
            taken += body.feed(arriving[taken : taken + step])
        assert taken == body.size == len(data)
    assert Body("length").done


def test_requests_are_named_as_users_of_s3_know_them() -> None:
    assert verb_of("GET", "/bucket?list-type=2&prefix=a") == "LIST"
    assert verb_of("GET", "/bucket/a/list-type") == "GET"
    assert verb_of("POST", "/bucket?delete") == "DELETE"
    assert verb_of("POST", "/bucket/key?uploads") == "POST"
    assert verb_of("PUT", "/bucket/key") == "PUT"


def test_round_trips_and_multipart_uploads() -> None:
    def exchange(start_s: float, end_s: float, target: str = "/b/k", payload: int = NO_FRAME) -> Exchange:
        return Exchange("PUT", target, 200, start_s, 0.0, end_s, end_s, 10, 0, payload, 1)

    assert round_trips([]) == 0
    assert round_trips([exchange(0, 3), exchange(1, 2), exchange(2.5, 6), exchange(3.5, 5)]) == 2
    assert round_trips([exchange(0, 1), exchange(1, 2), exchange(0.5, 1.5)]) == 2
    parts = [f"/b/big?partNumber={number}&uploadId=u" for number in (1, 2)]
    assert uncompressed_bytes([exchange(0, 1, parts[0], 70), exchange(1, 2, parts[1])]) == 70
    assert uncompressed_bytes([exchange(0, 1, parts[0]), exchange(1, 2, parts[1])]) == 20
