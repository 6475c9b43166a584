"""``python -m sessionfs_s3.cli``: the command line without its entry point."""

from __future__ import annotations

from sessionfs_s3.cli.app import main

main()
