"""Primitive values: what is written reads back, and nothing but the one form that a writer makes is read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionfs_s3.format import wire
from sessionfs_s3.format.limits import MODE_MAX, RECORDS_MAX, TIME_MS_MAX
from sessionfs_s3.format.wire import Malformed, Reader, Writer
from tests.format import handmade
from tests.fs.strategies import examples

UINT_MAX = (1 << 63) - 1


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, (1 << 32) - 1, 1 << 32, (1 << 56) - 1, UINT_MAX])
def test_integers_at_every_length(value: int) -> None:
    out = Writer()
    out.uint(value)
    assert out.to_bytes() == handmade.uint(value)
    reader = Reader(out.to_bytes())
    assert reader.uint() == value
    assert reader.remaining == 0


@examples(200)
@given(st.integers(0, UINT_MAX), st.binary(max_size=300), st.text(st.characters(exclude_categories=["Cs"])))
def test_values_read_back_in_order(number: int, data: bytes, text: str) -> None:
    out = Writer()
    out.uint(number)
    out.blob(data)
    out.text(text)
    out.raw(b"end")
    assert out.to_bytes() == handmade.uint(number) + handmade.blob(data) + handmade.text(text) + b"end"
    reader = Reader(out.to_bytes())
    assert (reader.uint(), reader.blob(), reader.text(), reader.raw(3)) == (number, data, text, b"end")
    reader.end()


@pytest.mark.parametrize("value", [-1, 1 << 63, 1 << 70])
def test_integers_that_cannot_be_stored(value: int) -> None:
    with pytest.raises(ValueError, match="not an unsigned integer"):
        Writer().uint(value)


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (b"", 0, "ends inside an integer"),
        (b"\x80", 1, "ends inside an integer"),
        (b"\xff" * 8, 8, "ends inside an integer"),
        (b"\x80\x00", 1, "shortest form"),
        (b"\xff\x80\x00", 2, "shortest form"),
        (b"\xff" * 9, 8, "more than 63 bits"),
        (b"\xff" * 100, 8, "more than 63 bits"),
        (b"\x80" * 9 + b"\x01", 8, "more than 63 bits"),
    ],
)
def test_integers_that_no_writer_makes(data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(Malformed, match=re.escape(reason)) as caught:
        Reader(data).uint()
    assert caught.value.offset == offset


@pytest.mark.parametrize("size", [4, 1 << 31, 1 << 62, UINT_MAX])
def test_lengths_beyond_the_end(size: int) -> None:
    with pytest.raises(Malformed, match=f"{size} bytes announced, 3 left"):
        Reader(handmade.uint(size) + b"abc").blob()


@pytest.mark.parametrize("data", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])
def test_text_that_is_not_utf8(data: bytes) -> None:
    with pytest.raises(Malformed, match="not UTF-8") as caught:
        Reader(handmade.blob(data)).text()
    assert caught.value.offset == 0


def test_nothing_may_be_left() -> None:
    reader = Reader(b"abc")
    reader.raw(1)
    with pytest.raises(Malformed, match="2 bytes too many") as caught:
        reader.end()
    assert caught.value.offset == 1


@pytest.mark.parametrize(("field", "most"), [("mode", MODE_MAX), ("time", TIME_MS_MAX)])
def test_modes_and_times_are_bounded_on_both_sides(field: str, most: int) -> None:
    out = Writer()
    getattr(out, field)(most)
    assert out.to_bytes() == handmade.uint(most)
    assert getattr(Reader(out.to_bytes()), field)() == most
    for value in (most + 1, 1 << 62):
        with pytest.raises(ValueError, match=f"is over {most:#o}" if field == "mode" else f"is over {most}"):
            getattr(Writer(), field)(value)
        with pytest.raises(Malformed, match=f"{field} {value} is over {most}"):
            getattr(Reader(handmade.uint(value)), field)()
    with pytest.raises(ValueError, match="-1"):
        getattr(Writer(), field)(-1)


def test_records_are_bounded_on_both_sides() -> None:
    reader, writer = Reader(b""), Writer()
    reader.records(RECORDS_MAX - 1)
    reader.records(1)
    writer.records(RECORDS_MAX)
    with pytest.raises(Malformed, match="records announced"):
        reader.records(1)
    with pytest.raises(ValueError, match="records"):
        writer.records(1)


def test_a_payload_is_refused_before_it_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PAYLOAD_BYTES_MAX", 10)
    out = Writer()
    out.raw(b"12345")
    out.raw(b"67890")
    with pytest.raises(ValueError, match="over 10 bytes"):
        out.raw(b"1")
    assert out.to_bytes() == b"1234567890"
