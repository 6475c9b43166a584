"""The numbers that an open volume works with, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from sessionfs_s3.sqlite import Limits
from sessionfs_s3.volume.retry import Patience

_MIB = 1024 * 1024
_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """How a volume behaves. The defaults are for a store in the same region.

    Attributes:
        patience: how long and how often a request is tried again.
        directories: absolute paths of directories that exist from the start.
        takeover_idle_s: None: opening takes the session over from whoever has it. A number: it refuses while somebody
            committed less than so many seconds ago, by this machine's clock against the store's.
        linger_s: how long an operation of :attr:`Durability.SOON` may wait for company, in seconds. The runtime writes
            six files while it creates a session; they and its first message become one commit.
        idle_s: after so many seconds without a call the volume gives its memory back; the next call reads the session
            again, two round trips. None: never.
        commit_bytes_max: how much data one commit takes before the next one is begun, in bytes; a single larger
            operation is committed alone.
        commit_entries_max: how many commands one commit takes.
        queue_bytes_max: how much uncommitted data may wait before a writer has to wait, in bytes.
        file_bytes_max: the largest write, in bytes; the runtime's own limit is 50,330,880.
        inline_bytes_max: a write above this goes into blobs first and the commit refers to them, in bytes; it is never
            less than a chunk. Below, one request is worth more than writing the bytes once more when they are sealed.
        blob_bytes_max: the largest blob, in bytes as stored; what is larger is written as several side by side.
        seal_bytes_min: a snapshot holds less than this inline rather than as a blob of its own, in bytes.
        snapshot_commits: commits after which a snapshot is written; up to twice as many while all of them are small
            beside the last one. Opening reads them side by side; what each costs the client shows in the time to open
            long before it shows in a bill.
        snapshot_bytes_min: bytes of commits after which a snapshot is written, unless half the last snapshot is more.
        claim_answer_s_max: a claim whose answer comes later than this after the start of its listing is void, in
            seconds: collection may have removed the slot in between (``docs/decisions/0001-log-of-slots.md``).
        collect_interval_s: seconds between two collections of one volume.
        collect_age_s: nothing younger than this is collected, in seconds by the store's own timestamps. It has to be
            well over *claim_answer_s_max*.
        fence_age_s: the first commit of an epoch is kept for so long, in seconds; an owner that was out of contact for
            half of it looks before it commits.
        database: what the session's SQL may use up.
        retention_s: states of the last so many seconds can still be read; 0 keeps what two snapshots need.
    """

    patience: Patience = field(default_factory=Patience)
    directories: tuple[str, ...] = ()
    takeover_idle_s: float | None = None
    linger_s: float = 5.0
    idle_s: float | None = 300.0
    commit_bytes_max: int = 8 * _MIB
    commit_entries_max: int = 1024
    queue_bytes_max: int = 32 * _MIB
    file_bytes_max: int = 64 * _MIB
    inline_bytes_max: int = _MIB
    blob_bytes_max: int = 8 * _MIB
    seal_bytes_min: int = 64 * 1024
    snapshot_commits: int = 16
    snapshot_bytes_min: int = 256 * 1024
    claim_answer_s_max: float = 300.0
    collect_interval_s: float = 600.0
    collect_age_s: float = _HOUR_S
    fence_age_s: float = 7 * _DAY_S
    retention_s: float = 0.0
    database: Limits = field(default_factory=Limits)
