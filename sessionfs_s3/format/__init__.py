"""The stored format: frames, commits, snapshots, blobs and the names of objects. Specified in ``docs/FORMAT.md``.

Pure: bytes in, records out. A decoder that meets anything but what an encoder wrote raises
:class:`~sessionfs_s3.errors.Corrupt` and nothing else.
"""

from sessionfs_s3.format.blob import (
    CHUNKS_START,
    StoredChunk,
    decode_blob,
    encode_blob,
    pack_chunk,
    unpack_chunk,
)
from sessionfs_s3.format.commit import CHAIN_START, TOMBSTONE_BYTES, Commit, decode_commit, encode_commit, next_chain
from sessionfs_s3.format.contents import blobs_of
from sessionfs_s3.format.frame import FORMAT_VERSION, VERSIONS_READ
from sessionfs_s3.format.keys import Kind, LogName, SessionKeys, parse_blob_name, parse_log_name, tenant_prefix
from sessionfs_s3.format.limits import PAYLOAD_BYTES_MAX
from sessionfs_s3.format.snapshot import Snapshot, decode_snapshot, encode_snapshot

__all__ = [
    "CHAIN_START",
    "CHUNKS_START",
    "FORMAT_VERSION",
    "PAYLOAD_BYTES_MAX",
    "TOMBSTONE_BYTES",
    "VERSIONS_READ",
    "Commit",
    "Kind",
    "LogName",
    "SessionKeys",
    "Snapshot",
    "StoredChunk",
    "blobs_of",
    "decode_blob",
    "decode_commit",
    "decode_snapshot",
    "encode_blob",
    "encode_commit",
    "encode_snapshot",
    "next_chain",
    "pack_chunk",
    "parse_blob_name",
    "parse_log_name",
    "tenant_prefix",
    "unpack_chunk",
]
