"""The stored format: frames, commits, snapshots and the names of objects. ``docs/FORMAT.md`` is its specification.

Pure: bytes in, records out. A decoder that meets anything but what an encoder wrote raises
:class:`~sessionfs_s3.errors.Corrupt` and nothing else.
"""

from sessionfs_s3.format.commit import CHAIN_START, Commit, decode_commit, encode_commit, next_chain
from sessionfs_s3.format.frame import FORMAT_VERSION
from sessionfs_s3.format.keys import Kind, LogName, SessionKeys, parse_log_name
from sessionfs_s3.format.limits import PAYLOAD_BYTES_MAX
from sessionfs_s3.format.snapshot import Snapshot, decode_snapshot, encode_snapshot

__all__ = [
    "CHAIN_START",
    "FORMAT_VERSION",
    "PAYLOAD_BYTES_MAX",
    "Commit",
    "Kind",
    "LogName",
    "SessionKeys",
    "Snapshot",
    "decode_commit",
    "decode_snapshot",
    "encode_commit",
    "encode_snapshot",
    "next_chain",
    "parse_log_name",
]
