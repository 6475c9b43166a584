"""The door for the GitHub Copilot SDK for Python: :class:`SessionFs` and the provider that it hands to each session."""

from sessionfs_s3.copilot.provider import SessionProvider
from sessionfs_s3.copilot.session_fs import SessionFs

__all__ = ["SessionFs", "SessionProvider"]
