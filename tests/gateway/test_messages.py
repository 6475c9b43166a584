"""Messages: what is no JSON-RPC is refused by name, and what is passed on is what was understood."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sessionfs_s3.gateway.errors import RpcError
from sessionfs_s3.gateway.frames import LARGE_BYTES
from sessionfs_s3.gateway.messages import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Malformed,
    Request,
    Response,
    dumps,
    encode,
    error,
    parse,
    parse_of_client,
    result,
)


def refused(text: bytes) -> Malformed:
    with pytest.raises(Malformed) as caught:
        parse(text)
    return caught.value


def request(**fields: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": "m", **fields}).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"\x00",
        b"{",
        b'{"jsonrpc":"2.0","method":"m","id":1}}',
        b'{"jsonrpc":"2.0","method":"m","id":1} {}',
        b'{"jsonrpc":"2.0","method":"m","id":NaN}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":Infinity}}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":-Infinity,"b":"\\ud800"}}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":01}}',
        b"{'jsonrpc':'2.0','method':'m'}",
        b'{"jsonrpc":"2.0","method":"m",}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":"\xff"}}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":"\xc0\xaf"}}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":"\n"}}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":"\\x"}}',
        b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"m"}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":"\\ud800","b":' + b"9" * 5000 + b"}}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        # A number too large for any JSON parser's double: one would read infinity, and it would be passed on as null.
        b'{"jsonrpc":"2.0","method":"m","params":{"a":1e999}}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":-1e999,"b":"\\ud800"}}',
        b'{"jsonrpc":"2.0","method":"m","id":1e999}',
    ],
    ids=lambda text: repr(text[:60]),
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    problem = refused(text)
    assert (problem.code, problem.id) == (PARSE_ERROR, None)
    assert len(str(problem)) < 300


@pytest.mark.parametrize(
    ("text", "answers_to"),
    [
        (b"null", None),
        (b"true", None),
        (b"1", None),
        (b'"m"', None),
        (b"[]", None),
        (b'[{"jsonrpc":"2.0","method":"m","id":1}]', None),  # a batch, which no SDK sends
        (b"{}", None),
        (b'{"method":"m","id":1}', 1),
        (b'{"jsonrpc":"1.0","method":"m","id":"a"}', "a"),
        (b'{"jsonrpc":2.0,"method":"m","id":1}', 1),
        (b'{"jsonrpc":"2.0","method":1,"id":2}', 2),
        (b'{"jsonrpc":"2.0","method":["m"],"id":2}', 2),
        (b'{"jsonrpc":"2.0","method":"m","id":null}', None),
        (b'{"jsonrpc":"2.0","method":"m","id":true}', None),
        (b'{"jsonrpc":"2.0","method":"m","id":[1]}', None),
        (b'{"jsonrpc":"2.0","method":"m","id":{}}', None),
        (b'{"jsonrpc":"2.0","method":"m","id":3,"params":"x"}', 3),
        (b'{"jsonrpc":"2.0","method":"m","id":3,"params":1}', 3),
        (b'{"jsonrpc":"2.0","method":"m","id":3,"params":[]}', 3),
        (b'{"jsonrpc":"2.0","method":"m","id":3,"params":[{},{}]}', 3),
        (b'{"jsonrpc":"2.0","method":"m","id":3,"params":[1]}', 3),
        (b'{"jsonrpc":"2.0","id":4}', 4),
        (b'{"jsonrpc":"2.0","id":4,"result":1,"error":{}}', 4),
        (b'{"jsonrpc":"2.0","id":[],"result":1}', None),
        (request(id="x" * 257), None),
    ],
    ids=lambda text: repr(text[:60]) if isinstance(text, bytes) else "",
)
def test_what_is_no_message_is_refused_under_the_id_that_it_has(text: bytes, answers_to: object) -> None:
    problem = refused(text)
    assert (problem.code, problem.id) == (INVALID_REQUEST, answers_to)


@pytest.mark.parametrize(
    "number", [0, -1, 1, 2**53, -(2**63), 2**64 - 1, 1.5, "", "0", "x" * 256, "gateway-1", "é😀", "\x00", "\ud800"]
)
def test_an_id_of_any_kind_comes_back_as_it_was(number: str | float) -> None:
    read = parse(request(id=number))
    assert isinstance(read, Request)
    assert type(read.id) is type(number)
    for answer in (result(read.id, {}), error(read.id, RpcError(-1, "no")), encode(Response(read.id, {"result": 1}))):
        assert json.loads(answer)["id"] == number
    assert json.loads(encode(read))["id"] == number


def test_a_key_that_stands_there_twice_is_passed_on_as_it_was_understood() -> None:
    for tail in (b"", b',"half":"\\ud800"'):  # read by the one parser, and by the other
        text = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"sessionId":"one","sessionId":"two"%b}}' % tail
        read = parse(text)
        assert isinstance(read, Request)
        assert read.session_id == "two"
        assert encode(read).count(b"sessionId") == 1
        assert json.loads(encode(read))["params"]["sessionId"] == "two"


def test_members_that_json_rpc_does_not_know_are_not_passed_on() -> None:
    read = parse(request(id=1, params={"a": 1}, extra=2, result=3))
    assert isinstance(read, Request)
    assert json.loads(encode(read)) == {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"a": 1}}


def test_half_a_character_is_passed_on() -> None:
    read = parse(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"text":"cut \\ud83d"}}')
    assert isinstance(read, Request)
    assert read.params == {"text": "cut \ud83d"}
    assert json.loads(encode(read))["params"] == {"text": "cut \ud83d"}


@pytest.mark.parametrize("depth", [100, 252, 253, 254, 300, 700])
def test_deep_nesting_is_passed_on_as_deep_as_the_runtimes_libraries_go(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    read = parse(f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"a":{nested}}}}}'.encode())
    assert nested.encode() in encode(read)


@pytest.mark.parametrize("depth", [950, 1000, 1020, 1022])
@pytest.mark.parametrize("text", ["", "\\ud800"])
def test_nesting_that_can_be_read_and_not_be_written_is_refused_and_no_crash(depth: int, text: str) -> None:
    nested = "[" * depth + "]" * depth
    try:
        read = parse(f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"a":{nested},"b":"{text}"}}}}'.encode())
        written = encode(read)
    except Malformed as problem:
        assert problem.code in (PARSE_ERROR, INVALID_REQUEST)  # noqa: PT017  # or it is passed on
    else:
        assert nested.encode() in written


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


def as_numbers(value: Any) -> Any:
    """Return *value* with its integers as other parsers of JSON read them: doubles beyond 64 bits."""
    if isinstance(value, dict):
        return {key: as_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_numbers(each) for each in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64 and abs(value) < 10**300:
        return float(value)
    return value


@given(params=st.dictionaries(st.text(st.characters(), max_size=8), JSON, max_size=4), escaped=st.booleans())
@settings(max_examples=150, deadline=None)
@example(params={"a": 10**400}, escaped=True)
def test_any_json_is_passed_on_as_it_came(params: dict[str, Any], escaped: bool) -> None:
    text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "m", "params": params}, ensure_ascii=escaped)
    try:
        read = parse(text.encode("utf-8", "surrogatepass"))
    except Malformed:
        # What is no UTF-8, and a number beyond a double, is no JSON to most.
        assert not _is_plain(params) or (not escaped and not _is_utf8(text))
        return
    assert isinstance(read, Request)
    assert as_numbers(json.loads(encode(read))["params"]) == as_numbers(params)


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    try:
        return not isinstance(value, (int, float)) or math.isfinite(float(value))
    except OverflowError:
        return False


@given(text=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_message_or_are_refused(text: bytes) -> None:
    try:
        read = parse(text)
    except Malformed:
        return
    assert json.loads(encode(read))["jsonrpc"] == "2.0"


MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": st.integers() | st.text(max_size=5) | JSON,
        "method": st.text(max_size=5) | JSON,
        "params": st.dictionaries(st.text(max_size=5), JSON, max_size=3) | JSON,
        "result": JSON,
        "error": JSON,
    },
)


@given(fields=MEMBERS)
@settings(max_examples=300, deadline=None)
def test_whatever_is_taken_for_a_message_can_be_written_and_read_again(fields: dict[str, Any]) -> None:
    try:
        read = parse(dumps(fields))
    except Malformed:
        return
    again = parse(encode(read))
    if isinstance(read, Response):
        assert again == Response(read.id, {**read.body, "id": read.id})
    else:
        assert again == read
        assert read.is_notification == ("id" not in fields)
        assert read.session_id is None or isinstance(read.session_id, str)


def test_a_large_text_of_nothing_but_brackets_is_refused_before_it_is_objects() -> None:
    few = b'{"jsonrpc":"2.0","method":"m","params":{"a":"%b"}}' % (b"x" * LARGE_BYTES)
    assert isinstance(parse_of_client(few), Request)
    code = json.dumps(json.dumps([{"name": f"value {number}"} for number in range(20_000)])).encode()
    assert len(code) > LARGE_BYTES
    assert isinstance(parse_of_client(b'{"jsonrpc":"2.0","method":"m","params":{"a":%b}}' % code), Request)
    many = b'{"jsonrpc":"2.0","method":"m","params":{"a":[%b[]]}}' % (b"[]," * (LARGE_BYTES // 3))
    with pytest.raises(Malformed, match="more arrays and objects than a message of this size may hold"):
        parse_of_client(many)
