"""An open session file system: opening and claiming, group commit, fencing, snapshots, SQLite.

Asynchronous. Clock, randomness and threads come through :class:`~sessionfs_s3.volume.environment.Environment`, so that
a simulator can run the shipped code under virtual time.
"""

from sessionfs_s3.volume.committer import Durability
from sessionfs_s3.volume.environment import Environment
from sessionfs_s3.volume.options import VolumeOptions
from sessionfs_s3.volume.state import Head
from sessionfs_s3.volume.volume import Volume

__all__ = ["Durability", "Environment", "Head", "Volume", "VolumeOptions"]
