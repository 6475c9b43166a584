"""What every part of an open volume works with: which session, in which store, on which machine, by which numbers."""

from __future__ import annotations

from dataclasses import dataclass

from sessionfs_s3.format import SessionKeys
from sessionfs_s3.store.protocol import Store
from sessionfs_s3.volume.environment import Environment
from sessionfs_s3.volume.options import VolumeOptions


@dataclass(frozen=True, slots=True)
class Session:
    """One session as this process reaches it: the objects named by *keys* in *store*."""

    store: Store
    keys: SessionKeys
    environment: Environment
    options: VolumeOptions
