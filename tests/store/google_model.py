"""A model of Google Cloud Storage's XML interface, as its reference describes it: no emulator speaks that.

Objects, generations, ``x-goog-if-generation-match``, ranges, listings. What it shows is that the adapter asks for and
reads what the reference says; it cannot show that Google does so. It decides races by having one thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from xml.sax.saxutils import escape

from aiohttp import web

TOKEN = "loopback-only"


@dataclass(frozen=True)
class Object:
    data: bytes
    generation: int
    modified: datetime

    @property
    def headers(self) -> dict[str, str]:
        # Of the contents, as Google's are: the same bytes written again have the same ETag, but a new generation.
        return {
            "ETag": f'"{hashlib.md5(self.data).hexdigest()}"',
            "Last-Modified": format_datetime(self.modified, usegmt=True),
            "x-goog-generation": str(self.generation),
        }


class GoogleModel:
    """One bucket."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.objects: dict[str, Object] = {}
        self.requests: list[str] = []
        self._generations = itertools.count(1_700_000_000_000_000)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path_qs}")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return refusal(401, "AuthenticationRequired")
        bucket, _, key = request.path.removeprefix("/").partition("/")
        if bucket != self.bucket:
            return refusal(404, "NoSuchBucket")
        if request.method == "GET" and not key:
            return self._list(request)
        if request.method == "PUT":
            data = await request.read()
            return self._put(request, key, data)
        found = self.objects.get(key)
        if found is None:
            return refusal(404, "NoSuchKey")
        if request.method == "DELETE":
            del self.objects[key]
            return web.Response(status=204)
        return get(request, found)

    def _put(self, request: web.Request, key: str, data: bytes) -> web.Response:
        wanted = request.headers.get("x-goog-if-generation-match")
        found = self.objects.get(key)
        if wanted is not None and int(wanted) != (found.generation if found else 0):
            return refusal(412, "PreconditionFailed")
        stored = self.objects[key] = Object(data, next(self._generations), datetime.now(UTC))
        return web.Response(headers=stored.headers)

    def _list(self, request: web.Request) -> web.Response:
        prefix, after = request.query.get("prefix", ""), request.query.get("start-after", "")
        after = request.query.get("continuation-token", after)
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        page = keys[:1000]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Generation>{found.generation}</Generation><MetaGeneration>1"
            f"</MetaGeneration><LastModified>{found.modified:%Y-%m-%dT%H:%M:%S.%f}Z</LastModified>"
            f"<ETag>{escape(found.headers['ETag'])}</ETag><Size>{len(found.data)}</Size></Contents>"
            for key, found in ((key, self.objects[key]) for key in page)
        )
        goes_on = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(keys) > 1000 else ""
        truncated = f"<IsTruncated>{str(bool(goes_on)).lower()}</IsTruncated>"
        return web.Response(text=f"<ListBucketResult>{truncated}{goes_on}{contents}</ListBucketResult>")


def get(request: web.Request, found: Object) -> web.Response:
    span = request.http_range
    if span.start is None:
        return web.Response(body=found.data, headers=found.headers)
    if span.start >= len(found.data):
        return refusal(416, "InvalidRange")
    stop = min(span.stop, len(found.data))
    named = {**found.headers, "Content-Range": f"bytes {span.start}-{stop - 1}/{len(found.data)}"}
    return web.Response(status=206, body=found.data[span.start : stop], headers=named)


def refusal(status: int, code: str) -> web.Response:
    return web.Response(status=status, text=f"<Error><Code>{code}</Code><Message>as modelled</Message></Error>")


@contextlib.asynccontextmanager
async def google_model(bucket: str) -> AsyncIterator[tuple[GoogleModel, str]]:
    """Serve a bucket; yield the model and its endpoint."""
    model = GoogleModel(bucket)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{tail:.*}", model.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield model, f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
