"""Catalogue calls answered from a catalogue in memory: what only a gateway has to do, and that it fits the schema.

What a plain runtime answers, and that the gateway says the same, stands in ``test_recorded.py``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sessionfs_s3.errors import CommitUnknown, Corrupt, Fenced, Refused, SessionFsError, Unavailable
from sessionfs_s3.gateway.catalogue import listing
from sessionfs_s3.gateway.catalogue.answers import CatalogueAnswers
from sessionfs_s3.gateway.catalogue.client_metadata import client_metadata
from sessionfs_s3.gateway.errors import FAILED, RpcError

from .catalogs import Event, Info, Live, MemoryCatalog, Stored
from .plain_runtime import TIMEOUT_S, Schema, read_schema

DAY_MS = 24 * 60 * 60 * 1000
NOW_MS = 1_800_000_000_000
UUID = "8d5c5a52-1111-4444-8888-123456789abc"
CONTEXT = {"cwd": "/workspace", "repository": "o/r", "branch": "main", "hostType": "github"}


def event(number: int, kind: str = "user.message", data: Mapping[str, object] | None = None) -> Event:
    return {
        "type": kind,
        "id": f"00000000-0000-4000-8000-{number:012}",
        "timestamp": "2026-11-21T20:03:21.022Z",
        "parentId": None,
        "data": data if data is not None else {"content": f"message {number}"},
    }


def stored(session_id: str, *, age_days: int = 0, events: int = 3, **more: Any) -> Stored:
    told = Info(
        session_id,
        created_ms=NOW_MS - age_days * DAY_MS - 5,
        modified_ms=NOW_MS - age_days * DAY_MS,
        bytes=100 + age_days,
        summary="About it",
        client_name="sdk",
    )
    return Stored(replace(told, **more), [event(number) for number in range(events)])


class Tenant:
    """A tenant's sessions, and a client of it."""

    def __init__(self, *sessions: Stored, opened: tuple[str, ...] = (), forbidden: tuple[str, ...] = ()) -> None:
        self.catalog = MemoryCatalog(*sessions)
        self.live = Live(*opened, forbidden=forbidden)
        numbers = itertools.count(1)
        self.answers = CatalogueAnswers(
            self.catalog, self.live, new_id=lambda: f"new-{next(numbers)}", now_ms=lambda: NOW_MS
        )

    async def ask(self, method: str, **params: object) -> Any:
        return await self.answers.answer(method, params)

    async def refused(self, method: str, **params: object) -> str:
        with pytest.raises(RpcError) as refused:
            await self.ask(method, **params)
        assert refused.value.code == FAILED
        before = f"Request {method} failed with message: "
        assert refused.value.message.startswith(before)
        return refused.value.message.removeprefix(before)


def tenant_of_all_kinds() -> Tenant:
    return Tenant(
        stored("old", age_days=40, name="Old", context=CONTEXT),
        stored("new", context=CONTEXT | {"gitRoot": "/workspace", "more": 1, "hostType": "other"}),
        stored(UUID, age_days=2, context={"repository": "o/r"}, summary=None, client_name=None),
        stored("maintenance", age_days=1, detached=True),
        opened=("new", "unborn"),
    )


@pytest.fixture
def tenant() -> Tenant:
    return tenant_of_all_kinds()


@pytest.fixture(scope="module")
def schema() -> Schema:
    return read_schema()


ASKED: list[tuple[str, dict[str, object]]] = [
    ("sessions.bulkDelete", {"sessionIds": ["old", "nope"]}),
    ("sessions.checkInUse", {"sessionIds": ["old", "new"]}),
    ("sessions.close", {"sessionId": "new"}),
    ("sessions.enrichMetadata", {"sessions": []}),
    ("sessions.findByPrefix", {"prefix": UUID[:9]}),
    ("sessions.findByPrefix", {"prefix": "nope"}),
    ("sessions.findByTaskId", {"taskId": "t"}),
    ("sessions.fork", {"sessionId": "old"}),
    ("sessions.fork", {"sessionId": UUID, "name": "Mine", "toEventId": event(1)["id"]}),
    ("sessions.getBoardEntryCount", {"sessionId": "old"}),
    ("sessions.getClientMetadata", {"sessionIds": ["old", "nope", "unborn"], "keys": ["a"]}),
    ("sessions.getEventFilePath", {"sessionId": "old"}),
    ("sessions.getLastForContext", {"context": CONTEXT}),
    ("sessions.getMetadata", {"sessionId": "new"}),
    ("sessions.getMetadata", {"sessionId": UUID}),
    ("sessions.getMetadata", {"sessionId": "nope"}),
    ("sessions.getPersistedRemoteSteerable", {"sessionId": "new"}),
    ("sessions.getSizes", {}),
    ("sessions.list", {"includeDetached": True, "metadataLimit": 2}),
    ("sessions.listNonEmptySessionIds", {"limit": 1}),
    ("sessions.pruneOld", {"olderThanDays": 30}),
    ("sessions.readPersistedEvents", {"sessionId": "new", "max": 2}),
    ("sessions.releaseLock", {"sessionId": "new"}),
]


@pytest.mark.runtime
@pytest.mark.timeout(TIMEOUT_S)
async def test_every_result_fits_the_schema(schema: Schema) -> None:
    unasked = {name for name in Tenant().answers.methods if name.startswith("sessions.")} - {name for name, _ in ASKED}
    # The schema says null; the runtime answers an object, and so does the gateway.
    assert unasked == {"sessions.delete"}
    for method, params in ASKED:
        tenant = tenant_of_all_kinds()
        schema.check_result(method, await tenant.ask(method, **params))
    with pytest.raises(Exception, match="required"):
        schema.check_result("sessions.getSizes", {})


async def test_a_list_shows_what_is_stored(tenant: Tenant) -> None:
    listed = (await tenant.ask("session.list"))["sessions"]
    assert [each["sessionId"] for each in listed] == ["new", UUID, "old"]
    assert listed[2] == {
        "sessionId": "old",
        "startTime": listing.timestamp(NOW_MS - 40 * DAY_MS - 5),
        "modifiedTime": listing.timestamp(NOW_MS - 40 * DAY_MS),
        "isRemote": False,
        "isDetached": False,
        "summary": "About it",
        "name": "Old",
        "clientName": "sdk",
        "context": CONTEXT,
    }
    assert listed[0]["context"] == {"cwd": "/workspace", "gitRoot": "/workspace", "repository": "o/r", "branch": "main"}
    assert set(listed[1]) == {"sessionId", "startTime", "modifiedTime", "isRemote", "isDetached"}
    assert (await tenant.ask("session.getLastId")) == {"sessionId": "new"}
    everything = await tenant.ask("sessions.list", includeDetached=True)
    assert [each["sessionId"] for each in everything["sessions"]] == ["new", "maintenance", UUID, "old"]
    assert everything["sessions"][1]["isDetached"] is True


def test_times_are_exact_to_the_millisecond() -> None:
    assert listing.timestamp(1_795_291_401_003) == "2026-11-21T20:03:21.003Z"
    assert listing.timestamp(0) == "1970-01-01T00:00:00.000Z"


async def test_deleting_closes_first(tenant: Tenant) -> None:
    assert await tenant.ask("session.delete", sessionId="new") == {"success": True}
    assert tenant.live.closed == ["new"]
    assert "new" not in tenant.catalog.stored
    assert await tenant.ask("session.delete", sessionId="unborn") == {"success": True}, "open, and nothing stored yet"
    assert await tenant.ask("sessions.delete", sessionId="old", sessionPath="/etc") == {}
    assert tenant.live.closed == ["new", "unborn"]
    assert await tenant.refused("sessions.delete", sessionId="old") == "Session file not found for old"


async def test_deleting_many_says_what_each_gave_back(tenant: Tenant) -> None:
    freed = await tenant.ask("sessions.bulkDelete", sessionIds=["old", "nope", "old", "new"])
    assert freed == {"freedBytes": {"old": 140, "nope": 0, "new": 100}}
    assert set(tenant.catalog.stored) == {UUID, "maintenance"}
    assert await tenant.refused("sessions.bulkDelete", sessionIds=[UUID, "bad/id"]) == 'Invalid sessionId: "bad/id"'
    assert UUID in tenant.catalog.stored, "one id that is none, and nothing is deleted"


async def test_how_many_one_request_may_name(tenant: Tenant) -> None:
    many = [f"s{number}" for number in range(1001)]
    for method in ("sessions.bulkDelete", "sessions.checkInUse", "sessions.getClientMetadata"):
        assert "1001 sessions, and at most 1000" in await tenant.refused(method, sessionIds=many)
        assert len(json.dumps(await tenant.ask(method, sessionIds=many[1:]))) > 10
    assert "1001 sessions" in await tenant.refused("sessions.pruneOld", olderThanDays=1, excludeSessionIds=many)


async def test_of_many_deletions_all_are_tried() -> None:
    class Stubborn(MemoryCatalog):
        async def delete(self, session_id: str) -> int | None:
            if session_id == "s3":
                raise Unavailable("no answer")
            return await super().delete(session_id)

    names = [f"s{number}" for number in range(20)]
    tenant = Tenant()
    catalog = Stubborn(*map(stored, names))
    answers = CatalogueAnswers(catalog, tenant.live, new_id=str, now_ms=lambda: NOW_MS)
    with pytest.raises(RpcError, match="unavailable"):
        await answers.answer("sessions.bulkDelete", {"sessionIds": names})
    assert list(catalog.stored) == ["s3"]


async def test_what_is_no_catalogue_call(tenant: Tenant) -> None:
    with pytest.raises(RpcError, match=r"Unhandled method session\.send"):
        await tenant.ask("session.send", sessionId="new")


async def test_closing(tenant: Tenant) -> None:
    assert await tenant.ask("sessions.close", sessionId="new") == {}
    assert await tenant.ask("sessions.close", sessionId="new") == {}
    assert await tenant.ask("sessions.close", sessionId="old") == {}
    assert tenant.live.closed == ["new"]
    assert set(tenant.catalog.stored) == {"old", "new", UUID, "maintenance"}


async def test_which_are_in_use(tenant: Tenant) -> None:
    asked = ["old", "new", "nope", "new", "unborn"]
    assert await tenant.ask("sessions.checkInUse", sessionIds=asked) == {"inUse": ["new", "unborn"]}


async def test_what_was_written_elsewhere_a_moment_ago_is_in_use() -> None:
    now = stored("now", age_days=0)
    asked = {"sessionIds": ["now", "old"]}
    elsewhere, here = Tenant(now, stored("old", age_days=1)), Tenant(now, stored("old", age_days=1))
    assert await elsewhere.ask("sessions.checkInUse", **asked) == {"inUse": ["now"]}
    here.live.epochs["now"] = now.info.epoch
    assert await here.ask("sessions.checkInUse", **asked) == {"inUse": []}


async def test_pruning() -> None:
    def tenant() -> Tenant:
        named = stored("named", age_days=50, name="Mine")
        named.files["workspace.yaml"] = b"id: named\nname: Mine\nuser_named: true\n"
        auto = stored("auto", age_days=45, name="Auto")
        auto.files["workspace.yaml"] = b"id: auto\nname: user_named: true\nuser_named: false\n"
        return Tenant(
            named, auto, stored("open", age_days=60), stored("kept", age_days=70), stored("young"), opened=("open",)
        )

    dry = tenant()
    answer = await dry.ask("sessions.pruneOld", olderThanDays=30, dryRun=True, excludeSessionIds=["kept"])
    expected = {"candidates": ["auto"], "skipped": ["named", "open"], "freedBytes": 145}
    assert answer == expected | {"deleted": [], "dryRun": True}
    assert len(dry.catalog.stored) == 5
    wet = tenant()
    answer = await wet.ask("sessions.pruneOld", olderThanDays=30, includeNamed=True)
    assert answer["deleted"] == ["auto", "named", "kept"]
    assert answer["skipped"] == ["open"]
    assert answer["freedBytes"] == 145 + 150 + 170
    assert set(wet.catalog.stored) == {"open", "young"}


async def test_pruning_at_the_threshold() -> None:
    tenant = Tenant(stored("exactly", age_days=30), stored("almost", age_days=30))
    almost = tenant.catalog.stored["almost"]
    almost.info = replace(almost.info, modified_ms=almost.info.modified_ms + 1)
    answer = await tenant.ask("sessions.pruneOld", olderThanDays=30, dryRun=True)
    assert answer["candidates"] == ["exactly"]


async def test_forking(tenant: Tenant) -> None:
    assert await tenant.ask("sessions.fork", sessionId="old") == {"sessionId": "new-1", "name": "Old (fork)"}
    assert await tenant.ask("sessions.fork", sessionId="old") == {"sessionId": "new-2", "name": "Old (fork 2)"}
    assert await tenant.ask("sessions.fork", sessionId="new-2") == {"sessionId": "new-3", "name": "Old (fork 2) (fork)"}
    assert await tenant.ask("sessions.fork", sessionId=UUID) == {
        "sessionId": "new-4",
        "name": "Session 8d5c5a52 (fork)",
    }
    cut = await tenant.ask("sessions.fork", sessionId="new", name="Cut", toEventId=event(2)["id"])
    assert cut == {"sessionId": "new-5", "name": "Cut"}
    assert tenant.catalog.stored["new-5"].events == [event(0), event(1)]
    assert tenant.catalog.stored["new-1"].events == tenant.catalog.stored["old"].events
    first = await tenant.refused("sessions.fork", sessionId="new", toEventId=event(0)["id"])
    assert first == "Cannot fork: truncation to the specified event would result in an empty session"
    assert await tenant.refused("sessions.fork", sessionId="new", toEventId="x") == "Event x not found in session new"
    absent = "Cannot fork session unborn: no persisted or in-memory events found"
    assert await tenant.refused("sessions.fork", sessionId="unborn") == absent


async def test_a_long_name_keeps_its_note() -> None:
    tenant = Tenant(stored("long", name="x" * 100))
    assert (await tenant.ask("sessions.fork", sessionId="long"))["name"] == "x" * 93 + " (fork)"
    assert (await tenant.ask("sessions.fork", sessionId="long"))["name"] == "x" * 91 + " (fork 2)"


async def test_a_fork_that_the_credential_could_not_use_is_refused() -> None:
    tenant = Tenant(stored("mine"), forbidden=("new-1",))
    assert "limited to certain sessions" in await tenant.refused("sessions.fork", sessionId="mine")
    assert list(tenant.catalog.stored) == ["mine"]


async def test_pages_of_events() -> None:
    tenant = Tenant(stored("s1", events=5))
    page = await tenant.ask("sessions.readPersistedEvents", sessionId="s1", max=2)
    seen = page["events"]
    while page["hasMore"]:
        assert page["cursorStatus"] == "ok"
        page = await tenant.ask("sessions.readPersistedEvents", sessionId="s1", max=2, cursor=page["cursor"])
        seen += page["events"]
    assert seen == tenant.catalog.stored["s1"].events
    newest = await tenant.ask("sessions.readPersistedEvents", sessionId="s1", max=2, direction="backward")
    assert newest["events"] == [event(3), event(4)]
    gone = await tenant.ask("sessions.readPersistedEvents", sessionId="s1", cursor="elsewhere")
    assert gone == {"events": [], "cursor": "elsewhere", "hasMore": False, "cursorStatus": "expired"}


async def test_remote_steerable_is_what_was_said_last() -> None:
    tenant = Tenant(stored("s1", events=1500), stored("s2"))
    events = tenant.catalog.stored["s1"].events
    events[3:3] = [event(9, "session.remote_steerable_changed", {"remoteSteerable": each}) for each in (True, False)]
    assert await tenant.ask("sessions.getPersistedRemoteSteerable", sessionId="s1") == {"remoteSteerable": False}
    assert await tenant.ask("sessions.getPersistedRemoteSteerable", sessionId="s2") == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, {"status": "ok", "metadata": {}}),
        (b'{"version":1,"metadata":{"a":"1","b":"2"}}', {"status": "ok", "metadata": {"a": "1"}}),
        (b'{"version":2,"metadata":{}}', {"status": "unsupportedVersion"}),
        (b'{"version":1,"metadata":{"a":1}}', {"status": "corrupt"}),
        (b'{"version":1}', {"status": "corrupt"}),
        (b'{"metadata":{}}', {"status": "corrupt"}),
        (b"[]", {"status": "corrupt"}),
        (b"\xff", {"status": "corrupt"}),
        (b"[" * 100_000, {"status": "corrupt"}),
        (json.dumps({"version": 1, "metadata": {str(n): "" for n in range(129)}}).encode(), {"status": "corrupt"}),
    ],
)
def test_client_metadata(content: bytes | None, expected: object) -> None:
    assert client_metadata(content, ["a", "zz"]) == expected


async def test_one_session_that_cannot_be_read_leaves_the_others() -> None:
    tenant = Tenant(stored("s1"))
    tenant.catalog.failure = Unavailable("bucket/prefix: no answer")
    entry = (await tenant.ask("sessions.getClientMetadata", sessionIds=["s1"]))[0]
    assert (entry["status"], entry["code"]) == ("unavailable", "EIO")
    assert "bucket" not in entry["message"]


async def test_what_the_credential_does_not_permit_does_not_exist() -> None:
    """Every answer is the same as if the other session were not there, and nothing of it is asked of the catalogue."""
    hidden = stored(UUID, age_days=-1, name="Hidden", context=CONTEXT)
    asked: list[tuple[str, dict[str, object]]] = [(method, dict(params)) for method, params in ASKED]
    for method in sorted(Tenant().answers.methods):
        asked += [(method, {"sessionId": UUID}), (method, {"sessionIds": [UUID, "new"]}), (method, {})]
    asked += [("sessions.enrichMetadata", {"sessions": [{"sessionId": UUID}]}), ("session.list", {"filter": CONTEXT})]
    asked += [("sessions.pruneOld", {"olderThanDays": -5, "includeNamed": True}), ("session.getLastId", {})]
    for method, params in asked:
        seeing = [stored("old", age_days=40), stored("new", context=CONTEXT)]
        without = Tenant(*seeing, opened=("new",), forbidden=(UUID,))
        with_hidden = Tenant(*seeing, hidden, opened=("new", UUID), forbidden=(UUID,))
        answers = [await outcome(each, method, params) for each in (with_hidden, without)]
        assert answers[0] == answers[1], method
        assert with_hidden.catalog.stored[UUID] is hidden
        assert UUID not in with_hidden.live.closed
        assert UUID not in [session_id for _, session_id in with_hidden.catalog.asked], method


async def outcome(tenant: Tenant, method: str, params: dict[str, object]) -> object:
    try:
        return await tenant.ask(method, **params)
    except RpcError as error:
        return (error.code, error.message)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Unavailable("s3://bucket/key: timeout"), "the session store is unavailable; try again later"),
        (CommitUnknown("s3://bucket/key"), "the session store did not answer, and the change may or may not be stored"),
        (Corrupt("bucket/key", 3, "magic"), "the stored session is damaged"),
        (Fenced("bucket/key"), "the session was changed by somebody else at the same time"),
        (Refused("bucket/key: AccessDenied"), "the session store refused the request"),
    ],
)
async def test_a_store_that_fails(failure: SessionFsError, words: str) -> None:
    for method, params in (("session.list", {}), ("session.delete", {"sessionId": "s1"}), ("sessions.getSizes", {})):
        tenant = Tenant(stored("s1"))
        tenant.catalog.failure = failure
        said = await tenant.refused(method, **params)
        assert said.startswith(words)
        assert "bucket" not in said


async def test_no_params_of_any_shape_break_an_answer(tenant: Tenant) -> None:
    values: list[object] = [
        None,
        True,
        0,
        -1,
        1.5,
        1e308,
        2**70,
        "",
        "x",
        "\ud800",
        [],
        [[]],
        {},
        {"a": {}},
        ["\ud800"],
    ]
    names = ["sessionId", "sessionIds", "prefix", "taskId", "filter", "context", "keys", "sessions", "olderThanDays"]
    names += [
        "metadataLimit",
        "source",
        "excludeSessionIds",
        "limit",
        "cursor",
        "max",
        "direction",
        "name",
        "toEventId",
    ]
    for method in sorted(tenant.answers.methods):
        for name, value in itertools.product(names, values):
            params: dict[str, object] = {"sessionId": "nope", "sessionIds": [], "olderThanDays": 9e9, name: value}
            for each in (params, {name: value}, value):
                try:
                    json.dumps(await tenant.answers.answer(method, each))
                except RpcError as error:
                    json.dumps([error.code, error.message, error.data])


async def test_opening_by_prefix_and_by_context_stays_with_the_tenant(tenant: Tenant) -> None:
    resolve = tenant.answers.resolved_open
    assert await resolve({"kind": "resume", "sessionId": UUID[:12], "resume": False}) == {
        "kind": "resume",
        "sessionId": UUID,
        "resume": False,
    }
    for known in (UUID, "new", "unborn"):
        assert await resolve({"kind": "resume", "sessionId": known}) == {"kind": "resume", "sessionId": known}
    assert await resolve({"kind": "attach", "sessionId": "nope"}) is None
    assert await resolve({"kind": "resumeLast", "context": {"cwd": "/workspace"}, "options": {"model": "m"}}) == {
        "kind": "resume",
        "sessionId": "new",
        "options": {"model": "m"},
    }
    assert await resolve({"kind": "create"}) == {"kind": "create"}
    assert await Tenant().answers.resolved_open({"kind": "resumeLast"}) is None
    with pytest.raises(RpcError, match="Invalid sessionId"):
        await resolve({"kind": "resume", "sessionId": "../x"})
    tenant.live.forbidden.add(UUID)
    assert await resolve({"kind": "resume", "sessionId": UUID[:12]}) is None
    assert await resolve({"kind": "resume", "sessionId": UUID}) is None
