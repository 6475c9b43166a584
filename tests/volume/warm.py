"""Imported by the server that the racing processes are forked from, never by a test: reads botocore's models once.

Reading them is half of the processor time that each of fifty processes would need, and none of what they race for.
"""

from __future__ import annotations

import asyncio
import os

from sessionfs_s3.store.s3 import S3Store

_NOBODY = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobody", "AWS_DEFAULT_REGION": "us-east-1"}


async def _open_and_close() -> None:
    store = await S3Store.open("nobody-asks-for-it", endpoint_url="http://127.0.0.1:9")
    await store.aclose()


os.environ.update(_NOBODY)
try:
    asyncio.run(_open_and_close())
finally:
    for _name in _NOBODY:
        del os.environ[_name]
