"""``docs/FORMAT.md`` says what the codec does: its tables, its limits and its worked examples are read and compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import VERSIONS_READ, blob, commit, contents, frame, limits, snapshot, wire
from sessionfs_s3.format.keys import ID_BYTES_MAX, SessionKeys
from sessionfs_s3.fs.chunk import CHUNK_BYTES, DIGEST_BYTES, PAGES_CHUNK_BYTES
from sessionfs_s3.fs.operations import DATABASE_BYTES_MAX
from sessionfs_s3.fs.paths import NAME_BYTES_MAX, PATH_BYTES_MAX
from tests.format import golden, handmade

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "FORMAT.md").read_text("utf-8")


def section(title: str) -> str:
    """Return the text under a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/FORMAT.md has no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table row but headings and rulers."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [cells for index, cells in enumerate(lines) if not set(cells[0]) <= {"-", ":"}][1:]


def fields(title: str) -> list[tuple[int, int, str]]:
    """Return offset, size and name of each field in the table of a section."""
    return [(int(cells[0]), int(cells[1]), cells[2]) for cells in rows(section(title))]


@pytest.mark.parametrize(
    ("title", "size"),
    [
        ("Frame", frame.HEADER_START),
        ("Commit header", commit._HEADER.size),
        ("Snapshot header", snapshot._HEADER.size),
        ("Blob header", blob._HEADER.size),
    ],
)
def test_fields_follow_each_other_without_a_gap(title: str, size: int) -> None:
    end = 0
    for offset, width, name in fields(title):
        assert offset == end, f"{title}: {name} starts at {offset}, the field before it ends at {end}"
        end += width
    assert end == size


def test_header_fields_are_where_the_codec_puts_them() -> None:
    widths = [width for _, width, _ in fields("Commit header")]
    assert widths == [8, 8, 16, 16, 32, 8, 4, 4, 8]
    assert commit._HEADER.format == ">QQ16s16s32sQIIQ"
    assert [width for _, width, _ in fields("Snapshot header")] == [8, 8, 16, 32, 8, 8]
    assert snapshot._HEADER.format == ">QQ16s32sQQ"
    assert [width for _, width, _ in fields("Blob header")] == [8, 16, 8]
    assert blob._HEADER.format == ">Q16sQ"
    assert [width for _, width, _ in fields("Frame")] == [4, 1, 1, 2, 4, 8, 8, 4, 32]
    assert frame._FIXED.format == ">4sBcHIQQI"


def test_every_operation_is_described() -> None:
    described = {cells[0].strip("`").encode() for cells in rows(section("Operations"))}
    assert described == set(commit._DECODERS)


def test_every_kind_of_object_and_node_is_described() -> None:
    kinds = next(cells[3] for cells in rows(section("Frame")) if cells[2] == "kind")
    assert {kind.encode() for kind in re.findall(r"`(.)`", kinds)} == {commit._KIND, snapshot._KIND, blob._KIND}
    lengths = next(cells[3] for cells in rows(section("Frame")) if cells[2] == "header length")
    assert [int(length) for length in re.findall(r"\d+", lengths)] == [
        commit._HEADER.size,
        snapshot._HEADER.size,
        blob._HEADER.size,
    ]
    nodes = next(cells[1] for cells in rows(section("Snapshot payload")) if cells[0] == "node")
    assert {kind.encode() for kind in re.findall(r"`(.)`", nodes)} == {snapshot._DIRECTORY, snapshot._FILE}


def test_the_limits_are_those_of_the_codec() -> None:
    stated = {cells[0]: int(re.sub(r"\D.*", "", cells[1].replace(",", ""))) for cells in rows(section("Limits"))}
    assert stated == {
        "payload, decompressed": limits.PAYLOAD_BYTES_MAX,
        "operations, names in their paths, extents, blobs and sealed chunks of one commit, together": (
            limits.RECORDS_MAX
        ),
        "nodes, blobs, claims and sealed chunks of one snapshot, together": limits.RECORDS_MAX,
        "chunk": CHUNK_BYTES,
        "chunk of the database": PAGES_CHUNK_BYTES,
        "path": PATH_BYTES_MAX,
        "name": NAME_BYTES_MAX,
        "database": DATABASE_BYTES_MAX,
        "time": limits.TIME_MS_MAX,
        "sequence number": limits.SEQUENCE_MAX,
        "number of a commit in a snapshot's tables": (1 << 7 * wire._UINT_BYTES_MAX) - 1,
    }
    assert f"over {ID_BYTES_MAX} bytes" in section("Names of objects")
    assert f"at most 0o{limits.MODE_MAX:o}" in section("Values in a payload")
    assert f"1 to {wire._UINT_BYTES_MAX} bytes" in section("Values in a payload")
    assert f"below {frame.COMPRESS_BYTES_MIN}\nbytes" in section("Frame")
    assert f"below {frame.COMPRESS_BYTES_MIN} bytes" in section("Blob payload")
    assert f"from offset {blob.CHUNKS_START} of the object" in section("Blob payload")
    assert f"from byte {blob.CHUNKS_START} on" in section("Contents")
    assert f"**chunks** of {CHUNK_BYTES:,} bytes" in section("Contents")
    assert f"chunks of {PAGES_CHUNK_BYTES:,} bytes" in section("Contents")
    assert f"{CHUNK_BYTES:,} (of a database {PAGES_CHUNK_BYTES:,}), or what is left" in section("Contents")
    assert f"{DIGEST_BYTES} bytes digest" in section("Contents")
    assert f"first {DIGEST_BYTES} bytes of the SHA-256" in section("What the checksum covers")


def test_the_table_of_blobs_has_the_fields_of_the_codec() -> None:
    stated = {cells[0]: cells[1] for cells in rows(section("Table of blobs"))}
    assert list(stated) == ["epoch", "id", "size"]
    assert stated["epoch"].startswith(f"{contents._EPOCH_BYTES} bytes, big-endian")
    assert stated["id"] == f"{limits.ID_BYTES} bytes"


def test_the_versions_are_those_of_the_codec() -> None:
    assert DOCUMENT.startswith(f"# The stored format, version {frame.FORMAT_VERSION}\n")
    stated = next(cells[3] for cells in rows(section("Frame")) if cells[2] == "format version")
    assert {int(number) for number in re.findall(r"\d+", stated)} == set(VERSIONS_READ)
    older, newest = VERSIONS_READ
    refusal = f"`format version {newest + 1}; this release reads versions {older} and {newest}`"
    assert refusal in section("Versions and flags")
    with pytest.raises(Corrupt, match=refusal.strip("`")):
        frame.decode_frame("key", b"c", 0, handmade.frame(b"c", b"", b"", version=newest + 1))
    assert len(rows(section("Versions and flags"))) == 6, "one row for each difference of version 1"


def dumps(title: str) -> list[tuple[int, bytes]]:
    """Return start and bytes of each hex dump in a section."""
    found: list[tuple[int, bytes]] = []
    for block in re.findall(r"```hex\n(.*?)```", section(title), re.DOTALL):
        lines = [re.fullmatch(r"([0-9a-f]{4})  ([0-9a-f ]{48})   (.*)", line) for line in block.splitlines()]
        assert all(lines), f"each line is an offset, 16 bytes and their text: {block}"
        data = b""
        start = int(lines[0][1], 16) if lines[0] else 0
        for line in filter(None, lines):
            assert int(line[1], 16) == start + len(data)
            part = bytes.fromhex(line[2])
            assert line[3] == "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
            data += part
        found.append((start, data))
    return found


def test_the_worked_examples_are_the_golden_files() -> None:
    expected = [
        ("claim", 0),
        ("first-commit", 168),
        ("blob", 64),
        ("commit-blobs", 168),
        ("snapshot-blobs", 144),
    ]
    for (name, start), found in zip(expected, dumps("By hand"), strict=True):
        assert f"`tests/golden/v2/{name}.bin`" in section("By hand")
        assert found == (start, golden.path(f"v2/{name}").read_bytes()[start:])


def test_the_examples_key_is_the_one_of_commit_42() -> None:
    assert f"`{SessionKeys.of('t', 's').commit(42)[-18:]}`" in section("By hand")
    assert SessionKeys.of("t", "s").commit(1).endswith("/fffffffffffffffe.c")
    key = SessionKeys.of("t", "s").blob(golden.BLOB)
    assert f"`{key.rpartition('/')[2]}`" in section("Names of objects")
    assert f"`blob/{key.rpartition('/')[2]}`" in section("By hand")


def test_what_the_bytes_of_an_example_are_said_to_be_lies_side_by_side() -> None:
    for table, (start, data) in zip(re.split(r"\n```hex", section("By hand"))[1:], dumps("By hand"), strict=True):
        end = start
        for cells in rows(table):
            for span in re.findall(r"`([0-9a-f]{2,3})`(?: to `([0-9a-f]{2,3})`)?", cells[0]):
                first, last = int(span[0], 16), int(span[1] or span[0], 16)
                assert first == end, f"{cells[0]} starts at {first:#x}, what is before it ends at {end:#x}"
                end = last + 1
        assert end == start + len(data)
