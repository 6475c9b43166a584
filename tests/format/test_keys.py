"""Names of objects: newest first in a listing, nothing else taken for one, and no id reaches beyond its own place."""

from __future__ import annotations

import posixpath
import re
import string
import unicodedata
import urllib.parse

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.format import Kind, LogName, SessionKeys, parse_blob_name, parse_log_name, tenant_prefix
from sessionfs_s3.format.keys import ID_BYTES_MAX, encode_id
from sessionfs_s3.format.limits import SEQUENCE_MAX
from sessionfs_s3.fs import Blob
from tests.fs.strategies import examples

KEYS = SessionKeys.of("acme", "task-7")
SEQUENCES = st.one_of(st.integers(1, 100), st.integers(1, SEQUENCE_MAX))


def test_where_everything_is() -> None:
    assert KEYS.prefix == "tenants/acme/sessions/task-7/"
    assert tenant_prefix("a b") == "tenants/a%20b/"
    assert KEYS.prefix.startswith(tenant_prefix("acme"))
    assert KEYS.log == "tenants/acme/sessions/task-7/log/"
    assert KEYS.commit(1) == "tenants/acme/sessions/task-7/log/fffffffffffffffe.c"
    assert KEYS.snapshot(1) == "tenants/acme/sessions/task-7/log/fffffffffffffffe.s"
    assert KEYS.blobs == "tenants/acme/sessions/task-7/blob/"
    assert KEYS.blob(Blob(42, bytes(range(16)), 1)) == (
        "tenants/acme/sessions/task-7/blob/000000000000002a-000102030405060708090a0b0c0d0e0f"
    )
    assert KEYS.commit(SEQUENCE_MAX) == "tenants/acme/sessions/task-7/log/0000000000000000.c"


@examples(300)
@given(SEQUENCES, SEQUENCES)
@example(15, 16)
@example(SEQUENCE_MAX, 1)
def test_a_listing_shows_the_newest_first(one: int, other: int) -> None:
    older, newer = sorted((one, other))
    assert (KEYS.commit(newer) < KEYS.commit(older)) == (older != newer)
    assert KEYS.commit(newer) < KEYS.snapshot(older)
    assert (KEYS.snapshot(newer) < KEYS.commit(older)) == (older != newer)


@examples(200)
@given(SEQUENCES)
def test_names_read_back(sequence: int) -> None:
    assert parse_log_name(KEYS.commit(sequence).removeprefix(KEYS.log)) == LogName(sequence, Kind.COMMIT)
    assert parse_log_name(KEYS.snapshot(sequence).removeprefix(KEYS.log)) == LogName(sequence, Kind.SNAPSHOT)


@examples(200)
@given(SEQUENCES, st.binary(min_size=16, max_size=16), st.integers(0, 1 << 40))
def test_names_of_blobs_read_back(epoch: int, blob_id: bytes, size: int) -> None:
    name = KEYS.blob(Blob(epoch, blob_id, size)).removeprefix(KEYS.blobs)
    assert parse_blob_name(name) == (epoch, blob_id)
    assert parse_log_name(name) is None


@pytest.mark.parametrize(
    "blob",
    [Blob(0, bytes(16), 1), Blob(-1, bytes(16), 1), Blob(SEQUENCE_MAX + 1, bytes(16), 1), Blob(1, bytes(15), 1)],
)
def test_there_is_no_key_for_what_is_no_blob(blob: Blob) -> None:
    with pytest.raises(ValueError, match=f"no blob has epoch {blob.epoch} and an id of {len(blob.id)} bytes"):
        KEYS.blob(blob)


BLOB_NAME = f"{'0' * 15}1-{'0' * 32}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        BLOB_NAME[1:],
        BLOB_NAME[:-1],
        f"0{BLOB_NAME}",
        f"{BLOB_NAME}0",
        f"{BLOB_NAME}\n",
        f" {BLOB_NAME}",
        f"{BLOB_NAME}.tmp",
        f"x/{BLOB_NAME}",
        f"{BLOB_NAME}/",
        BLOB_NAME.replace("-", "_"),
        BLOB_NAME.replace("-", ""),
        BLOB_NAME.replace("-", "--"),
        BLOB_NAME.replace("1", "0"),  # epoch 0
        BLOB_NAME.replace("1", "A"),
        BLOB_NAME.replace("1", "g"),
        f"{'0' * 15}1-{'0' * 31}F",
        f"0x{'0' * 13}1-{'0' * 32}",
        f"+{'0' * 14}1-{'0' * 32}",
        BLOB_NAME.replace("1", "\u0661"),
        "fffffffffffffffe.c",
    ],
)
def test_other_names_are_no_blobs_of_ours(name: str) -> None:
    assert parse_blob_name(name) is None


HEX_NAMES = st.from_regex(r"[0-9a-fA-F]{15,17}[-.][0-9a-fA-F]{31,33}", fullmatch=True)


@examples(300)
@given(st.one_of(st.text(max_size=50), HEX_NAMES))
def test_any_name_of_a_blob_is_parsed_or_left_alone(name: str) -> None:
    found = parse_blob_name(name)
    if found is not None:
        assert KEYS.blob(Blob(*found, 0)) == KEYS.blobs + name


@pytest.mark.parametrize("sequence", [0, -1, SEQUENCE_MAX + 1, 1 << 70])
def test_there_is_no_slot_for_other_numbers(sequence: int) -> None:
    for key in (KEYS.commit, KEYS.snapshot):
        with pytest.raises(ValueError, match=re.escape(f"sequence number {sequence}")):
            key(sequence)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fffffffffffffffe",
        "fffffffffffffffe.",
        "fffffffffffffffe.x",
        "fffffffffffffffe.cc",
        "fffffffffffffffe.C",
        "FFFFFFFFFFFFFFFE.c",
        "ffffffffffffffFe.c",
        "ffffffffffffffff.c",  # sequence number 0
        "ffffffffffffffff.s",
        "ffffffffffffffe.c",
        "ffffffffffffffffe.c",
        "-ffffffffffffffe.c",
        "+ffffffffffffffe.c",
        "0xfffffffffffffe.c",
        "ffff_ffffffffffe.c",
        " fffffffffffffffe.c",
        "fffffffffffffffe.c ",
        "fffffffffffffffe.c\n",
        "fffffffffffffffe\n.c",
        "x/fffffffffffffffe.c",
        "fffffffffffffffe.c/",
        "fffffffffffffffe.c.tmp",
        "fffffffffffffffe.c~",
        "gffffffffffffffe.c",
        "\uff46fffffffffffffffe.c",
        "\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661.c",
    ],
)
def test_other_names_are_not_ours(name: str) -> None:
    assert parse_log_name(name) is None


@examples(400)
@given(st.text(max_size=24))
def test_any_name_is_parsed_or_left_alone(name: str) -> None:
    found = parse_log_name(name)
    if found is not None:
        key = KEYS.commit if found.kind is Kind.COMMIT else KEYS.snapshot
        assert key(found.sequence) == KEYS.log + name


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("acme", "acme"),
        ("Acme", "Acme"),
        ("...", "..."),
        (".a", ".a"),
        ("a_b-c.d", "a_b-c.d"),
        ("a b", "a%20b"),
        ("a/b", "a%2Fb"),
        ("../../other", "..%2F..%2Fother"),
        ("%2e%2e", "%252e%252e"),
        ("%2F", "%252F"),
        ("a%b", "a%25b"),
        ("~", "%7E"),
        ("a?b#c&d=e+f", "a%3Fb%23c%26d%3De%2Bf"),
        ("a\\b", "a%5Cb"),
        ("é", "%C3%A9"),
        ("e\u0301", "e%CC%81"),
        ("\uff0e\uff0e", "%EF%BC%8E%EF%BC%8E"),
        ("\u2215", "%E2%88%95"),
        ("\u2028", "%E2%80%A8"),
        ("\u202e", "%E2%80%AE"),
        ("\u200b", "%E2%80%8B"),
        ("\U0001f600", "%F0%9F%98%80"),
        ("\uffff", "%EF%BF%BF"),
        ("x" * 255, "x" * 255),
        ("é" * 42 + "xxx", "%C3%A9" * 42 + "xxx"),
    ],
)
def test_ids_become_one_segment(value: str, encoded: str) -> None:
    assert encode_id("tenant", value) == encoded
    keys = SessionKeys.of(value, value)
    assert keys.prefix == f"tenants/{encoded}/sessions/{encoded}/"


CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("", "must not be empty"),
        (".", "must not be '.' or '..'"),
        ("..", "must not be '.' or '..'"),
        ("a\0", "control characters"),
        ("a\n", "control characters"),
        ("\x7f", "control characters"),
        ("a\u0085b", "control characters"),
        ("\ud800", "lone surrogates"),
        ("a\udfff", "lone surrogates"),
        ("x" * 256, "at most 255 bytes"),
        ("é" * 43, "at most 255 bytes"),
        ("é" * 42 + "xxxx", "at most 255 bytes"),
        ("/" * 86, "at most 255 bytes"),
        ("x" * (1 << 20), "at most 255 bytes"),
        ("\0" * (1 << 20), "at most 255 bytes"),
    ],
)
def test_ids_that_are_refused(value: str, rule: str) -> None:
    for what, tenant, session in (("tenant", value, "fine"), ("session id", "fine", value)):
        with pytest.raises(InvalidInput, match=re.escape(rule)) as caught:
            SessionKeys.of(tenant, session)
        message = str(caught.value)
        assert message.startswith(f"{what} {value!r}"[:60]), "names the value"
        assert caught.value.what == what
        assert rule in caught.value.rule
        assert len(message) < 200
        message.encode()


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_character_is_refused(control: str) -> None:
    assert unicodedata.category(control) == "Cc"
    with pytest.raises(InvalidInput, match="control characters"):
        encode_id("tenant", f"a{control}b")


IDS = st.one_of(
    st.text(st.sampled_from("aA.%2eEfF/é\uff0e"), max_size=6),
    st.text(st.characters(), max_size=60),
    st.text("a%/", min_size=80, max_size=260),
)


@examples(500)
@given(IDS, IDS)
@example("a/b", "a%2Fb")
@example("%", "%25")
@example("é", "e\u0301")
def test_two_ids_never_share_a_key(one: str, other: str) -> None:
    try:
        first, second = encode_id("tenant", one), encode_id("tenant", other)
    except InvalidInput:
        return
    assert (first == second) == (one == other)


@examples(500)
@given(IDS, IDS)
def test_keys_stay_below_their_tenant(tenant: str, session: str) -> None:
    try:
        keys = SessionKeys.of(tenant, session)
    except InvalidInput:
        return
    key = keys.commit(1)
    tenants, first, sessions, second, log, name = key.split("/")
    assert (tenants, sessions, log, name) == ("tenants", "sessions", "log", "fffffffffffffffe.c")
    assert posixpath.normpath(key) == key
    for segment, value in ((first, tenant), (second, session)):
        assert set(segment) <= set(string.ascii_letters + string.digits + "._-%")
        assert 1 <= len(segment) <= ID_BYTES_MAX
        assert urllib.parse.unquote(segment, errors="strict") == value
        assert segment not in {".", ".."}
