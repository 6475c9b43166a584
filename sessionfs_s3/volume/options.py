"""The numbers that an open volume works with, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from sessionfs_s3.volume.retry import Patience


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """How a volume behaves. The defaults are for a store in the same region.

    Attributes:
        patience: how long and how often a request is tried again.
        directories: absolute paths of directories that exist from the start.
        linger_s: how long an operation of :attr:`Durability.SOON` may wait for company, in seconds. The runtime writes
            six files while it creates a session; they and its first message become one commit.
        commit_bytes_max: how much data one commit takes before the next one is begun, in bytes; a single larger
            operation is committed alone.
        commit_entries_max: how many commands one commit takes.
        queue_bytes_max: how much uncommitted data may wait before a writer has to wait, in bytes.
        file_bytes_max: the largest write, in bytes. Contents travel inside commits, so that this is bounded by the
            largest frame; the runtime's own limit is 50,330,880.
        snapshot_commits: commits after which a snapshot is written.
        snapshot_bytes_min: bytes of commits after which a snapshot is written, unless half the last snapshot is more.
        claim_answer_s_max: a claim whose answer comes later than this after the start of its listing is void, in
            seconds: collection may have removed the slot in between (``docs/decisions/0001-log-of-slots.md``).
    """

    patience: Patience = field(default_factory=Patience)
    directories: tuple[str, ...] = ()
    linger_s: float = 5.0
    commit_bytes_max: int = 8 * 1024 * 1024
    commit_entries_max: int = 1024
    queue_bytes_max: int = 32 * 1024 * 1024
    file_bytes_max: int = 64 * 1024 * 1024
    snapshot_commits: int = 64
    snapshot_bytes_min: int = 256 * 1024
    claim_answer_s_max: float = 300.0
