"""The catalogue of a tenant's sessions: listed, looked at, deleted and forked in the store, with no runtime.

Reads and writes the tenant's own objects through the store and the engine; knows no SDK and no network.
"""

from sessionfs_s3.catalog.catalog import Catalog
from sessionfs_s3.catalog.info import SessionInfo
from sessionfs_s3.catalog.pages import EventsPage

__all__ = ["Catalog", "EventsPage", "SessionInfo"]
