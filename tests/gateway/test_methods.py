"""What becomes of each method: the tables cover the runtime's schema, and no parameter reaches past them."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from sessionfs_s3.gateway.catalogue.answers import CatalogueAnswers
from sessionfs_s3.gateway.errors import RpcError
from sessionfs_s3.gateway.rules import method_tables
from sessionfs_s3.gateway.rules.method_tables import spelled
from sessionfs_s3.gateway.rules.methods import (
    TREATMENTS,
    Treatment,
    other_sessions,
    refusal,
    required_session,
    session_of,
    treatment,
)
from sessionfs_s3.gateway.rules.sharing import HOST_TOOLS, shared_params
from sessionfs_s3.gateway.rules.to_clients import OWN_RUNTIME, PASSAGES, Recipient, passage, session_named

from .catalogs import Live, MemoryCatalog
from .plain_runtime import TIMEOUT_S, Schema, read_schema

LEGACY = {
    "auth.getStatus",
    "session.create",
    "session.delete",
    "session.destroy",
    "session.detach",
    "session.getForeground",
    "session.getLastId",
    "session.getMessages",
    "session.getMetadata",
    "session.list",
    "session.resume",
    "session.sendAndWait",
    "session.setForeground",
    "status.get",
    "$/cancelRequest",
}
"""What SDKs send beside the schema."""

LEGACY_TO_CLIENTS = {
    "host.event",
    "autoModeSwitch.request",
    "exitPlanMode.request",
    "host.validateAuthentication",
    "permission.request",
    "session.event",
    "session.lifecycle",
    "systemMessage.transform",
    "tool.call",
    "userInput.request",
}

MAY_NAME_NO_SESSION = {"gitHubToken.getToken"}
"""Named or not, it passes to nobody without a session: see session_named."""

NAMES_A_SESSION = re.compile(r"session_?ids?$|^taskId$|^mcTaskId$|^prefix$", re.IGNORECASE)

DOORS = {
    # Answered from the tenant's own catalogue, where another tenant's session does not exist.
    "sessions.enrichMetadata": {("sessions", "*", "mcTaskId"), ("sessions", "*", "sessionId")},
    "sessions.findByPrefix": {("prefix",)},
    "sessions.findByTaskId": {("taskId",)},
    "sessions.bulkDelete": {("sessionIds",)},
    "sessions.checkInUse": {("sessionIds",)},
    "sessions.getClientMetadata": {("sessionIds",)},
    "sessions.pruneOld": {("excludeSessionIds",)},
    # Looked up by the gateway before the request is passed: see session_of and other_sessions.
    "session.mode.set": {("inheritPlanBaseFromSessionId",)},
    "sessions.open": {
        ("options", "sessionId"),
        ("options", "detachedFromSpawningParentSessionId"),
        # Of kinds that are refused on a shared runtime.
        ("remoteSessionId",),
        ("metadata", "sessionId"),
        ("metadata", "remoteSessionIds"),
    },
}
"""Parameters beside ``sessionId`` that name a session, of methods that are not refused on a shared runtime."""


@pytest.fixture(scope="module")
def schema() -> Schema:
    return read_schema()


@pytest.mark.runtime
@pytest.mark.timeout(TIMEOUT_S)
def test_every_method_of_the_schema_is_classified(schema: Schema) -> None:
    known = set(schema.methods["server"]) | set(schema.methods["session"])
    assert len(known) > 500
    missing = sorted(known - set(TREATMENTS))
    assert not missing, f"decide what becomes of these, in sessionfs_s3/gateway/rules/method_tables.py: {missing}"
    surplus = sorted(set(TREATMENTS) - known - LEGACY)
    assert not surplus, f"neither in the schema nor sent by an SDK, take them out of the tables: {surplus}"


@pytest.mark.runtime
@pytest.mark.timeout(TIMEOUT_S)
def test_every_message_of_a_runtime_has_a_row(schema: Schema) -> None:
    known = set(schema.methods["clientSession"]) | set(schema.methods["clientGlobal"])
    missing = sorted(known - set(PASSAGES))
    assert not missing, f"decide whom these may reach, in sessionfs_s3/gateway/rules/to_clients.py: {missing}"
    surplus = sorted(set(PASSAGES) - known - LEGACY_TO_CLIENTS)
    assert not surplus, f"neither in the schema nor known to an SDK: {surplus}"
    for method, row in [*PASSAGES.items(), *OWN_RUNTIME.items()]:
        if method in known and row.session_parameter:
            assert (row.session_parameter,) in schema.parameters(method), method
            required = schema.method(method)["params"]
            while "$ref" in required:
                required = schema.document["definitions"][required["$ref"].rpartition("/")[2]]
            if method not in OWN_RUNTIME and method not in MAY_NAME_NO_SESSION:
                assert row.session_parameter in required["required"], f"{method} may come without a session"


@pytest.mark.runtime
@pytest.mark.timeout(TIMEOUT_S)
def test_every_session_method_names_its_session(schema: Schema) -> None:
    for method, treated in TREATMENTS.items():
        if treated is Treatment.SESSION and method not in LEGACY:
            assert ("sessionId",) in schema.parameters(method), method
        if treated is Treatment.GLOBAL and method not in LEGACY:
            named = {path for path in schema.parameters(method) if NAMES_A_SESSION.search(path[-1])}
            assert not named, f"{method} goes to any runtime, and names a session: {named}"


@pytest.mark.runtime
@pytest.mark.timeout(TIMEOUT_S)
def test_no_parameter_names_a_session_unnoticed(schema: Schema) -> None:
    found = {}
    for method, treated in TREATMENTS.items():
        if treated is Treatment.PROCESS or method in LEGACY:
            continue
        paths = {path for path in schema.parameters(method) if NAMES_A_SESSION.search(path[-1])} - {("sessionId",)}
        if paths:
            found[method] = paths
    assert found == DOORS, "a parameter that names a session is new, or gone: see other_sessions in methods.py"


@pytest.mark.runtime
@pytest.mark.timeout(TIMEOUT_S)
def test_options_that_are_watched_are_the_runtimes(schema: Schema) -> None:
    """A rule about an option that has been renamed would let it pass."""
    options = {path[-1] for path in schema.parameters("sessions.open") | schema.parameters("session.options.update")}
    watched = {"configDir", "enableSessionStore", "eventsLogDirectory", "excludedTools", "trajectoryFile"}
    watched |= {"agentDirectories", "hookDirectories", "instructionDirectories", "skillDirectories", "installedPlugins"}
    assert watched | {"toolFilterPrecedence"} <= options
    decisions = json.dumps(schema.document["definitions"])
    for word in ("approve-for-location", "approve-permanently", "pickerSettingsContext", "pickerPersistence"):
        assert f'"{word}"' in decisions
    assert ("scope",) in schema.parameters("session.permissions.modifyRules")


def test_the_tables_do_not_overlap() -> None:
    tables = [method_tables.CATALOGUE, method_tables.SESSION, method_tables.OWN, method_tables.GLOBAL]
    names = [name for each in [*tables, *method_tables.PROCESS.values()] for name in spelled(each)]
    assert sorted(names) == sorted(TREATMENTS)


def test_what_is_to_be_answered_is_answered() -> None:
    answers = CatalogueAnswers(MemoryCatalog(), Live(), new_id=str, now_ms=int)
    assert answers.methods == {name for name, treated in TREATMENTS.items() if treated is Treatment.ANSWER}


@pytest.mark.parametrize(
    ("method", "treated"),
    [
        ("session.send", Treatment.SESSION),
        ("session.create", Treatment.SESSION),
        ("sessions.list", Treatment.ANSWER),
        ("sessions.fork", Treatment.ANSWER),
        ("models.list", Treatment.GLOBAL),
        ("connect", Treatment.OWN),
        ("sessionFs.setProvider", Treatment.OWN),
        ("runtime.shutdown", Treatment.PROCESS),
        ("account.getCurrentAuth", Treatment.PROCESS),
        ("sessions.loadWorkspace", Treatment.PROCESS),
        ("session.shell.exec", Treatment.PROCESS),
        ("session.debug.collectLogs", Treatment.PROCESS),
        ("sessionFs.readFile", Treatment.UNKNOWN),
        ("session.nope", Treatment.UNKNOWN),
        ("Session.Send", Treatment.UNKNOWN),
        (" session.send", Treatment.UNKNOWN),
        ("", Treatment.UNKNOWN),
    ],
)
def test_treatment(method: str, treated: Treatment) -> None:
    assert treatment(method, {"sessionId": "s1"}) is treated


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session.create", {"cloud": {}}),
        ("session.create", {"configDir": "/home/other"}),
        ("session.resume", {"eventsLogDirectory": "/tmp/x"}),
        ("session.options.update", {"trajectoryFile": "/etc/passwd"}),
        ("session.create", {"hookDirectories": ["/x"]}),
        ("session.create", {"installedPlugins": [{"name": "x"}]}),
        ("session.resume", {"pluginDirectories": ["/x"]}),
        ("session.options.update", {"skillDirectories": ["/x"]}),
        ("sessions.open", {"kind": "resume", "options": {"instructionDirectories": ["/x"]}}),
        ("session.create", {"agentDirectories": ["/x"]}),
        ("session.create", {"requestExtensions": True}),
        ("session.create", {"mcpServers": {"a": {"url": "https://example.com"}, "b": {"command": "sh"}}}),
        ("session.create", {"mcpServers": {"a": {"type": "local", "args": []}}}),
        ("session.create", {"customAgents": [{"name": "x", "mcpServers": {"b": {"command": "sh"}}}]}),
        ("sessions.open", {"kind": "create", "options": {"mcpServers": {"b": {"command": "sh"}}}}),
        ("session.mcp.startServer", {"serverName": "x", "config": {"command": "sh", "url": "https://example.com"}}),
        ("session.mcp.restartServer", {"serverName": "x", "config": {"command": "sh"}}),
        ("session.mcp.reloadWithConfig", {"config": {"mcpServers": {"x": {"command": "sh"}}}}),
        ("sessions.open", {"kind": "cloud"}),
        ("sessions.open", {"kind": "handoff"}),
        ("sessions.open", {"kind": "remote", "remoteSessionId": "theirs"}),
        ("sessions.open", {"kind": ["create"]}),
        ("sessions.open", {}),
        ("sessions.open", {"kind": "create", "options": {"configDir": "/x"}}),
        ("session.mode.set", {"persistPlanSelection": True}),
        ("session.mode.set", {"pickerSettingsContext": {"homeDirectory": "/root"}}),
        ("session.model.switchTo", {"pickerPersistence": {}}),
        ("session.permissions.handlePendingPermissionRequest", {"result": {"kind": "approve-for-location"}}),
        ("session.permissions.handlePendingPermissionRequest", {"result": {"kind": "approve-permanently"}}),
        ("session.permissions.modifyRules", {"scope": "location"}),
    ],
)
def test_parameters_that_reach_beyond_the_session(method: str, params: dict[str, object]) -> None:
    assert TREATMENTS[method] is Treatment.SESSION
    assert treatment(method, {"sessionId": "s1", **params}) is Treatment.PROCESS
    assert "--isolation tenant" in refusal(method, params).message


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session.create", {"configDir": None, "mcpServers": {}}),
        ("session.create", {"requestExtensions": False, "installedPlugins": [], "customAgents": [{"name": "x"}, 5]}),
        ("session.create", {"mcpServers": {"a": {"type": "http", "url": "https://example.com", "tools": ["*"]}}}),
        ("session.mcp.startServer", {"serverName": "x"}),
        ("session.mcp.restartServer", {"serverName": "x", "config": {"url": "https://example.com"}}),
        ("session.permissions.handlePendingPermissionRequest", {"result": {"kind": "approve-once"}}),
        ("session.permissions.handlePendingPermissionRequest", {"result": {"kind": ["approve-permanently"]}}),
        ("session.permissions.modifyRules", {"scope": "session"}),
        ("session.mode.set", {"mode": "plan", "persistPlanSelection": False}),
        ("sessions.open", {"kind": "create", "options": {"sessionId": "s1"}}),
    ],
)
def test_parameters_that_do_not(method: str, params: dict[str, object]) -> None:
    assert treatment(method, {"sessionId": "s1", **params}) is Treatment.SESSION


def test_a_refusal_says_why_and_what_would_help() -> None:
    for method, treated in TREATMENTS.items():
        if treated is Treatment.PROCESS:
            message = refusal(method, None).message
            assert message.startswith(f"Request {method} failed with message: ")
            assert "--isolation tenant" in message
            assert "schema" not in message, f"{method} has no reason of its own"


def test_which_session_a_request_is_about() -> None:
    assert session_of("session.send", {"sessionId": "s1"}) == "s1"
    assert session_of("sessions.open", {"kind": "create", "options": {"sessionId": "s2"}, "sessionId": "s1"}) == "s2"
    assert session_of("sessions.open", {"kind": "create"}) is None
    assert session_of("sessions.open", {"kind": "attach", "sessionId": "s1"}) == "s1"
    for params in (None, [], ["s1"], "s1", {"sessionId": 5}, {"sessionId": None}, {"SessionId": "s1"}):
        assert session_of("session.send", params) is None
        with pytest.raises(RpcError, match=r"Missing sessionId in session\.send request"):
            required_session("session.send", params)
    with pytest.raises(RpcError, match="invalid sessionId: bad/id"):
        required_session("session.create", {"sessionId": "bad/id"})
    with pytest.raises(RpcError, match="too long"):
        required_session("session.send", {"sessionId": "x" * 256})


def test_which_further_sessions_a_request_names() -> None:
    assert other_sessions("session.mode.set", {"sessionId": "s1", "inheritPlanBaseFromSessionId": "s2"}) == ["s2"]
    given = {"kind": "create", "options": {"detachedFromSpawningParentSessionId": "s2", "sessionId": "s1"}}
    assert other_sessions("sessions.open", given) == ["s2"]
    assert other_sessions("session.send", {"sessionId": "s1", "inheritPlanBaseFromSessionId": "s2"}) == []
    for mine, kind in (("s1", "resume"), ("s2", "create")):
        two = {"kind": kind, "sessionId": "s1", "options": {"sessionId": "s2"}}
        assert {session_of("sessions.open", two), *other_sessions("sessions.open", two)} == {"s1", "s2"}
        assert session_of("sessions.open", two) == mine
        assert other_sessions("sessions.open", two | {"options": {"sessionId": "s1"}, "kind": "resume"}) == []
    assert other_sessions("session.mode.set", {"inheritPlanBaseFromSessionId": None}) == []
    with pytest.raises(RpcError, match="has to be a string"):
        other_sessions("session.mode.set", {"inheritPlanBaseFromSessionId": ["s2"]})


def test_what_sessions_would_share_is_taken_out() -> None:
    given = {"sessionId": "s1", "enableSessionStore": True, "mcpOAuthTokenStorage": "persistent", "model": "m"}
    for method in ("session.create", "session.resume"):
        for params in (given, {"sessionId": "s1"}):
            passed = shared_params(method, params)
            assert isinstance(passed, dict)
            assert passed["enableSessionStore"] is False
            assert passed["mcpOAuthTokenStorage"] == passed["embeddingCacheStorage"] == "in-memory"
            assert passed["enableGitHubTelemetryForwarding"] is False
            assert passed["sessionId"] == "s1"
            assert passed.get("model") == params.get("model")
    opened = shared_params("sessions.open", {"kind": "create", "options": given})
    assert isinstance(opened, dict)
    assert opened["options"]["enableSessionStore"] is False
    assert opened["options"]["model"] == "m"
    update = shared_params("session.options.update", {"sessionId": "s1", "enableSessionStore": True})
    assert "excludedTools" not in str(update)
    assert update == {"sessionId": "s1", "enableSessionStore": False}
    as_they_came: list[object] = [{"sessionId": "s1", "model": "m"}, None, []]
    for untouched in as_they_came:
        assert shared_params("session.options.update", untouched) is untouched
        assert shared_params("session.send", untouched) is untouched
    assert given["enableSessionStore"] is True, "the client's own parameters are left as they came"


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ({}, []),
        ({"excludedTools": ["view"]}, ["view"]),
        ({"availableTools": ["bash"], "excludedTools": ["view"]}, []),
        ({"availableTools": ["*"], "excludedTools": ["view"], "toolFilterPrecedence": "available"}, []),
        ({"availableTools": ["*"], "excludedTools": ["view"], "toolFilterPrecedence": "excluded"}, ["view"]),
        ({"excludedTools": "view"}, []),
    ],
)
def test_the_hosts_tools_are_excluded(given: dict[str, object], own: list[str]) -> None:
    hosts = [f"builtin:{name}" for name in HOST_TOOLS]
    for method in ("session.create", "session.resume", "sessions.open", "session.options.update"):
        nested = method == "sessions.open"
        passed = shared_params(method, {"options": given} if nested else given)
        assert isinstance(passed, dict)
        options = passed["options"] if nested else passed
        if given or method != "session.options.update":
            assert options["excludedTools"] == [*own, *hosts]
            assert options["toolFilterPrecedence"] == "excluded"
            assert options.get("availableTools") == given.get("availableTools")


def test_nothing_of_a_runtime_reaches_anybody_by_default() -> None:
    assert passage("new.method").recipient is Recipient.NOBODY
    assert passage("gitHubTelemetry.event").recipient is Recipient.NOBODY
    assert session_named("gitHubTelemetry.event", {"sessionId": "s1"}) is None
    assert session_named("session.lifecycle", {"type": "session.created", "sessionId": "s1"}) == "s1"
    assert session_named("session.event", {"event": {}}) is None
    assert session_named("session.event", ["s1"]) is None
    for method, row in PASSAGES.items():
        assert bool(row.session_parameter) is (row.recipient is not Recipient.NOBODY), method
    own = passage("installations.confirm", own_runtime=True)
    assert (own.recipient, own.session_parameter) == (Recipient.OPENER, "policySessionId")
    assert passage("session.event", own_runtime=True) == PASSAGES["session.event"]


def test_no_params_of_any_shape_break_a_decision() -> None:
    values: list[object] = [None, True, 5, 1.5, "x", [], ["x"], {}, {"kind": []}, {"sessionId": {}}, [[]]]
    names = ["sessionId", "kind", "options", "result", "scope", "cloud", "inheritPlanBaseFromSessionId"]
    for method in TREATMENTS:
        for name, value in itertools.product(names, values):
            for params in ({name: value}, value):
                assert isinstance(treatment(method, params), Treatment)
                session_of(method, params)
                shared_params(method, params)
                for decide in (other_sessions, required_session):
                    try:
                        decide(method, params)
                    except RpcError as error:
                        json.dumps(error.message)
