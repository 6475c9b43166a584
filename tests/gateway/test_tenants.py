"""The tenants file: what it may hold, and that no message repeats a secret."""

from __future__ import annotations

import copy
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.gateway.auth.limits import TenantLimits
from sessionfs_s3.gateway.auth.tenants import Identity, SessionRule, TenantsFile, parse_tenants, read_tenants
from sessionfs_s3.gateway.auth.tokens import digest_of, hash_token, new_token
from tests.gateway.tenants_files import one_tenant, toml, write

PLAIN = "plain-text-secret-0123456789abcdefghijklmnop"
JWT = {"keys_file": "keys.pem", "algorithms": ["RS256"], "issuer": "https://issuer.example", "audience": "sessionfs"}


def refusal(values: dict[str, object] | str) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_tenants(values if isinstance(values, str) else toml(values))
    return str(caught.value)


def test_a_file_says_who_each_token_is() -> None:
    first, first_line = new_token()
    second, second_line = new_token()
    values: dict[str, object] = {
        "limits": {"connections_max": 50},
        "tenants": [
            {
                "id": "acme",
                "limits": {"burst": 5},
                "tokens": [
                    {
                        "label": "build server",
                        "hash": first_line,
                        "expires": datetime(2027, 6, 30, tzinfo=UTC),
                        "sessions": ["nightly", "build-*"],
                    }
                ],
            },
            {"id": "größer & co", "tokens": [{"label": "all", "hash": second_line}]},
        ],
    }
    assert parse_tenants(toml(values)).identities() == {
        digest_of(first): Identity(
            "acme",
            "build server",
            SessionRule(frozenset({"nightly"}), ("build-",)),
            datetime(2027, 6, 30, tzinfo=UTC).timestamp(),
            TenantLimits(connections_max=50, burst=5),
        ),
        digest_of(second): Identity("größer & co", "all", None, None, TenantLimits(connections_max=50)),
    }


@pytest.mark.parametrize(
    ("patterns", "allowed", "others"),
    [
        (["a", "b"], ["a", "b"], ["", "aa", "A", "c"]),
        (["build-*"], ["build-", "build-1", "build-1-2"], ["build", "xbuild-1", "Build-1"]),
        (["*"], ["a", "anything"], []),
        ([], [], ["", "a"]),
        (["..*", ".a"], ["..a", ".a"], [".", "a"]),
    ],
)
def test_a_rule_allows_what_it_names(patterns: list[str], allowed: list[str], others: list[str]) -> None:
    rule = SessionRule.of(patterns)
    assert [name for name in [*allowed, *others] if rule.allows(name)] == allowed
    identity = Identity("acme", "label", rule, None, TenantLimits())
    assert [name for name in [*allowed, *others] if identity.allows(name)] == allowed


@pytest.mark.parametrize("pattern", ["", "..", ".", "a*b", "**", "a\n", "x" * 256, "\ud800", "a\x00*", "*a"])
def test_a_pattern_that_no_session_has_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput, match="allowed session"):
        SessionRule.of([pattern])


HASH = hash_token("x" * 40)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tenant": []}, "tenant: Extra inputs"),
        ({"tenants": [{"id": "acme", "token": PLAIN}]}, "tenants.0.token: Extra inputs"),
        ({"tenants": [{"id": "acme", "tokens": [PLAIN]}]}, "tenants.0.tokens.0: "),
        ({"tenants": [{"id": "acme", "tokens": {PLAIN: "label"}}]}, "tenants.0.tokens"),
        ({"tenants": [{"id": "acme", PLAIN: 5}]}, "tenants.0.…"),
        (one_tenant(PLAIN), "tenants.0.tokens.0.hash: must be 'sha256:' and 64"),
        (one_tenant("sha256:" + PLAIN), "a token itself must not stand here"),
        (one_tenant(HASH.upper()), "must be 'sha256:'"),
        (one_tenant(HASH + "\n"), "must be 'sha256:'"),
        (one_tenant(HASH, expires="tomorrow"), "tenants.0.tokens.0.expires"),
        (one_tenant(HASH, expires=datetime(2027, 1, 1)), "timezone"),  # noqa: DTZ001  # that is the case
        (one_tenant(HASH, sessions="build-*"), "tenants.0.tokens.0.sessions"),
        (one_tenant(HASH, sessions=[5]), "tenants.0.tokens.0.sessions.0"),
        (one_tenant(HASH, sessions=["a*b"]), "must have '*' only at its end"),
        (one_tenant(HASH, label=""), "tenants.0.tokens.0.label"),
        (one_tenant(HASH, label="a\nb"), "characters that print"),
        ({"tenants": [{"id": ".."}], "jwt": JWT}, "must not be '.' or '..'"),
        ({"tenants": [{"id": 5}], "jwt": JWT}, "tenants.0.id 5: "),
        ({"tenants": [{"id": "a"}, {"id": "a"}], "jwt": JWT}, "tenant 'a' must not stand there twice"),
        ({"tenants": [{"id": "a", "limits": {"connections_max": 0}}]}, "tenants.0.limits.connections_max 0: "),
        ({"limits": {"connections_max": "5"}}, "limits.connections_max"),
        ({}, "nobody could connect"),
        ({"tenants": [{"id": "acme"}]}, "nobody could connect"),
        ({"jwt": {**JWT, "algorithms": ["HS256"]}}, "jwt.algorithms.0"),
        ({"jwt": {**JWT, "algorithms": ["RS256", "none"]}}, "jwt.algorithms.1"),
        ({"jwt": {**JWT, "algorithms": []}}, "jwt.algorithms"),
        ({"jwt": {**JWT, "audience": []}}, "jwt.audience"),
        ({"jwt": {**JWT, "keys_url": "https://issuer.example/keys"}}, "either keys_file or keys_url"),
        ({"jwt": {key: value for key, value in JWT.items() if key != "keys_file"}}, "either keys_file or keys_url"),
        ({"jwt": {key: value for key, value in JWT.items() if key != "issuer"}}, "jwt.issuer: Field required"),
        ({"jwt": {key: value for key, value in JWT.items() if key != "audience"}}, "jwt.audience: Field required"),
        ({"jwt": {**JWT, "leeway_s": -1}}, "jwt.leeway_s -1"),
        ({"jwt": {**JWT, "claims": {"role": "x"}}}, "jwt.claims.role: Extra inputs"),
    ],
)
def test_what_is_not_acceptable_is_refused_by_name(values: dict[str, object], expected: str) -> None:
    message = refusal(values)
    assert expected in message
    assert PLAIN not in message


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys",
        "ftp://issuer.example/keys",
        "file:///etc/passwd",
        "https://",
        "https://user:word@issuer.example/",
        "https://issuer.example:port/",
        "http://127.0.0.1.issuer.example/",
        "http://10.0.0.1/keys",
        "keys.json",
    ],
)
def test_keys_come_over_https_or_from_loopback(url: str) -> None:
    jwt = {**{key: value for key, value in JWT.items() if key != "keys_file"}, "keys_url": url}
    assert "jwt.keys_url: " in refusal({"jwt": jwt})


@pytest.mark.parametrize(
    "url", ["https://issuer.example/keys", "http://127.0.0.1:80/k", "http://[::1]/", "http://localhost/"]
)
def test_a_url_of_keys_is_taken(url: str) -> None:
    jwt = {**{key: value for key, value in JWT.items() if key != "keys_file"}, "keys_url": url}
    parsed = parse_tenants(toml({"jwt": jwt}))
    assert parsed.jwt is not None
    assert parsed.jwt.keys_url == url


def test_a_number_in_the_place_of_a_secret_is_not_repeated() -> None:
    message = refusal({"tenants": [{"id": "acme", "tokens": [{"label": "build", "hash": 31415926535}]}]})
    assert message.startswith("tenants.0.tokens.0.hash: ")
    assert "31415926535" not in message


def test_the_same_token_or_label_twice_is_refused() -> None:
    token = {"label": "one", "hash": HASH}
    both = refusal({"tenants": [{"id": "a", "tokens": [token]}, {"id": "b", "tokens": [{**token, "label": "two"}]}]})
    assert "'one' of tenant 'a' and 'two' of tenant 'b' must not be the same" in both
    other = {"label": "one", "hash": hash_token("y" * 40)}
    assert "'one' must not stand there twice" in refusal({"tenants": [{"id": "a", "tokens": [token, other]}]})


@pytest.mark.parametrize(
    "text", ["= 5", "a = ", f'token = "{PLAIN}', "x = 2027-02-31", "\x00", "[" * 5000, "n = " + "9" * 5000]
)
def test_what_is_no_toml_is_refused(text: str) -> None:
    message = refusal(text)
    assert PLAIN not in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "tenants.toml"
    with pytest.raises(InvalidInput, match=r"tenants file .*cannot be read: No such file"):
        read_tenants(missing)
    missing.write_bytes(b"a = '\xff'")
    with pytest.raises(InvalidInput, match=r"must be UTF-8, byte 5"):
        read_tenants(missing)


@pytest.mark.parametrize(
    ("mode", "warnings"),
    [(0o600, []), (0o640, []), (0o644, ["readable by every user"]), (0o660, ["can be changed"])],
)
def test_a_file_that_others_may_read_or_change_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warnings: list[str]
) -> None:
    path = write(tmp_path / "tenants.toml", one_tenant(HASH))
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        read_tenants(path)
    assert len(caplog.messages) == len(warnings)
    assert all(warning in message for warning, message in zip(warnings, caplog.messages, strict=True))


# Names and values that are acceptable, and then one change to one place of the file.
_IDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."}
)
_LABELS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.isprintable)
_TOKENS = st.text(st.characters(codec="utf-8"), min_size=32, max_size=60)
_LIMITS = st.fixed_dictionaries(
    {}, optional={"connections_max": st.integers(1, 10**6), "requests_per_s": st.floats(0.5, 1e5)}
)
_PATTERNS = st.from_regex(r"[A-Za-z0-9_-]{1,20}\*?", fullmatch=True)


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, object], dict[str, tuple[str, str]]]:
    """Return a tenants file, and tenant and label of each plain token."""
    tokens = draw(st.lists(_TOKENS, min_size=1, max_size=6, unique=True))
    tenants: list[dict[str, object]] = []
    owners: dict[str, tuple[str, str]] = {}
    for tenant in draw(st.lists(_IDS, min_size=1, max_size=3, unique=True)):
        count = draw(st.integers(0, len(tokens))) if tenants else 1
        mine, tokens = tokens[:count], tokens[count:]
        labels = draw(st.lists(_LABELS, min_size=count, max_size=count, unique=True)) if mine else []
        entries: list[dict[str, object]] = []
        for token, label in zip(mine, labels, strict=False):
            entry: dict[str, object] = {"label": label, "hash": hash_token(token)}
            if draw(st.booleans()):
                entry["sessions"] = draw(st.lists(_PATTERNS, max_size=3))
            entries.append(entry)
            owners[token] = (tenant, label)
        tenants.append({"id": tenant, "limits": draw(_LIMITS), "tokens": entries})
    return {"limits": draw(_LIMITS), "tenants": tenants}, owners


@settings(deadline=None)
@given(file=files())
def test_every_acceptable_file_finds_each_token_its_owner(
    file: tuple[dict[str, object], dict[str, tuple[str, str]]],
) -> None:
    values, owners = file
    identities = parse_tenants(toml(values)).identities()
    found = {token: identities[digest_of(token)] for token in owners}
    assert {token: (identity.tenant, identity.subject) for token, identity in found.items()} == owners
    assert len(identities) == len(owners)


_ODD = st.one_of(
    st.just(PLAIN),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.just([]),
    st.just({}),
    st.just([PLAIN]),
    st.just({PLAIN: 1}),
)


@settings(deadline=None)
@given(file=files(), data=st.data())
def test_one_odd_value_is_refused_or_taken_and_never_repeated(
    file: tuple[dict[str, object], dict[str, tuple[str, str]]], data: st.DataObject
) -> None:
    values = copy.deepcopy(file[0])
    places = list(_places(values))
    holder, key = data.draw(st.sampled_from(places), label="place")
    holder[data.draw(st.sampled_from([key, "surplus", PLAIN]), label="key")] = data.draw(_ODD, label="value")
    parsed, message = _parsed(toml(values))
    if parsed is None:
        assert PLAIN not in message or holder.get("id") == PLAIN
    else:
        assert set(holder).isdisjoint({"surplus", PLAIN}), "a key that no file has was taken"


@settings(deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_is_taken_or_refused(text: str) -> None:
    parsed, message = _parsed(text)
    assert (parsed is None) == bool(message)


def _parsed(text: str) -> tuple[TenantsFile | None, str]:
    """Return the file, or why there is none."""
    try:
        return parse_tenants(text), ""
    except ValueError as error:
        return None, str(error)


def _places(value: object) -> list[tuple[dict[str, object], str]]:
    """Return each place of a file: the table, and the key in it."""
    match value:
        case dict():
            return [(value, key) for key in value] + [place for item in value.values() for place in _places(item)]
        case list():
            return [place for item in value for place in _places(item)]
        case _:
            return []
