"""Store URLs: what each scheme takes, and opening what they name.

``s3://bucket/prefix?endpoint_url=…&region=…&addressing_style=…``, ``file:///dir``, ``memory://`` and ``memory://NAME``.
Credentials never stand in a URL, and no message repeats a part of one in which they might.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.store.arguments import KEY_BYTES_MAX, check_segments
from sessionfs_s3.store.local import LocalStore
from sessionfs_s3.store.memory import MemoryStore
from sessionfs_s3.store.protocol import Store
from sessionfs_s3.store.s3_settings import ClientSettings

PREFIX_BYTES_MAX: Final = 256
"""Longest prefix in a bucket: leaves three quarters of a key to tenant, session and the object's own name."""

_WHAT: Final = "store URL"
_PARAMETERS: Final = ("endpoint_url", "region", "addressing_style")
_ADDRESSING_STYLES: Final = ("path", "virtual", "auto")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP_ADDRESS: Final = re.compile(r"[0-9]+(?:\.[0-9]+){3}")
_REGION: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_MEMORY_NAME: Final = re.compile(r"[A-Za-z0-9._-]{0,255}")
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket, a prefix in it ("" or with a slash at its end), and where the server is."""

    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: str | None = None

    @property
    def url(self) -> str:
        """The URL in its canonical form."""
        given = {name: value for name in _PARAMETERS if (value := getattr(self, name)) is not None}
        return f"s3://{self.bucket}/{self.prefix}" + (f"?{urlencode(given, safe=':/')}" if given else "")


@dataclass(frozen=True, slots=True)
class LocalLocation:
    """A directory, by its absolute path."""

    directory: Path

    @property
    def url(self) -> str:
        """The URL in its canonical form."""
        return f"file://{quote(str(self.directory))}"


@dataclass(frozen=True, slots=True)
class MemoryLocation:
    """A store in this process's memory, by its name; "" for one of one's own."""

    name: str

    @property
    def url(self) -> str:
        """The URL in its canonical form."""
        return f"memory://{self.name}"


Location = S3Location | LocalLocation | MemoryLocation


async def open_store(url: str, *, settings: ClientSettings | None = None) -> Store:
    """Open the store that *url* names. Makes no request; makes the directory of a ``file:`` URL if it is missing.

    Args:
        url: ``s3://bucket/prefix?…``, ``file:///dir``, ``memory://NAME``.
        settings: connections and timeouts, for S3.

    Raises:
        InvalidInput: the URL, or the directory that it names, breaks a rule.
        Denied: no credentials, or no permission to open the directory.
        NoAnswer: the disk, or whoever issues the credentials, did not answer.
    """
    location = parse_store_url(url)
    if isinstance(location, MemoryLocation):
        return MemoryStore(location.name)
    if isinstance(location, LocalLocation):
        return await LocalStore.open(location.directory)
    from sessionfs_s3.store.s3 import S3Store  # Here, for the client alone takes most of a second to import.

    return await S3Store.open(
        location.bucket,
        location.prefix,
        url=location.url,
        endpoint_url=location.endpoint_url,
        region=location.region,
        addressing_style=location.addressing_style,
        settings=settings,
    )


def parse_store_url(url: str) -> Location:
    """Return what *url* names; reaches nothing.

    Raises:
        InvalidInput: naming the part of the URL and the rule that it breaks.
    """
    if _CONTROL.search(url):
        raise InvalidInput(_WHAT, _presentable(url), "must not hold spaces or control characters (write %20)")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInput(_WHAT, _presentable(url), f"cannot be read: {error}") from None
    if parts.scheme not in ("s3", "file", "memory") or not url[len(parts.scheme) :].startswith("://"):
        raise InvalidInput(_WHAT, _presentable(url), "must start with s3://, file:/// or memory://")
    if "@" in parts.netloc:
        rule = "must not hold credentials; they come from the environment, a profile or a role"
        raise InvalidInput(_WHAT, _presentable(url), rule)
    if "#" in url:
        raise InvalidInput(_WHAT, _presentable(url), "must not hold a fragment ('#')")
    if parts.scheme == "s3":
        return _s3_location(url, parts)
    if "?" in url:
        raise InvalidInput(_WHAT, _presentable(url), f"{parts.scheme}: takes no parameters ('?')")
    return _local_location(url, parts) if parts.scheme == "file" else _memory_location(url, parts)


def _s3_location(url: str, parts: SplitResult) -> S3Location:
    bucket = parts.netloc
    if not bucket:
        raise InvalidInput(_WHAT, _presentable(url), "must name a bucket: s3://bucket/prefix")
    if _BUCKET.fullmatch(bucket) is None or ".." in bucket or _IP_ADDRESS.fullmatch(bucket):
        rule = (
            "must be 3 to 63 lower-case letters, digits, '.' and '-', start and end with a letter or digit, "
            "hold no '..' and not be an IP address"
        )
        raise InvalidInput("bucket", bucket if ":" not in bucket else "…", rule)
    prefix = parts.path.removeprefix("/").removesuffix("/")
    if prefix or parts.path.startswith("//"):
        check_segments("prefix of the store URL", prefix)
    if len(prefix) > PREFIX_BYTES_MAX:
        raise InvalidInput("prefix of the store URL", prefix, f"must be at most {PREFIX_BYTES_MAX} of {KEY_BYTES_MAX}")
    given = _parameters(url, parts.query)
    return S3Location(
        bucket,
        f"{prefix}/" if prefix else "",
        endpoint_url=_endpoint_url(given.get("endpoint_url")),
        region=_region(given.get("region")),
        addressing_style=_addressing_style(given.get("addressing_style")),
    )


def _parameters(url: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise InvalidInput(_WHAT, _presentable(url), "parameters must be name=value, joined by '&'") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in _PARAMETERS:
            raise InvalidInput("parameter of the store URL", name, f"must be one of {', '.join(_PARAMETERS)}")
        if name in given:
            raise InvalidInput("parameter of the store URL", name, "must be given once")
        given[name] = value
    return given


def _endpoint_url(value: str | None) -> str | None:
    if value is None:
        return None
    shown = _presentable(value)
    if _CONTROL.search(value):
        raise InvalidInput("endpoint_url", shown, "must not hold spaces or control characters")
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    else:
        if "@" in parts.netloc:
            raise InvalidInput("endpoint_url", shown, "must not hold credentials")
        usable = usable and "?" not in value and "#" not in value
    if not usable:
        raise InvalidInput("endpoint_url", shown, "must be http://host[:port] or https://host[:port]")
    return value


def _region(value: str | None) -> str | None:
    if value is not None and _REGION.fullmatch(value) is None:
        raise InvalidInput("region", value, "must be lower-case letters and digits joined by '-', as in eu-west-1")
    return value


def _addressing_style(value: str | None) -> str | None:
    if value is not None and value not in _ADDRESSING_STYLES:
        raise InvalidInput("addressing_style", value, f"must be one of {', '.join(_ADDRESSING_STYLES)}")
    return value


def _local_location(url: str, parts: SplitResult) -> LocalLocation:
    if parts.netloc or not parts.path.startswith("/"):
        raise InvalidInput(_WHAT, _presentable(url), "must be file:/// and an absolute path, with no host")
    path = unquote(parts.path, errors="surrogateescape")
    if "\0" in path:
        raise InvalidInput(_WHAT, _presentable(url), "must not hold NUL")
    if ".." in path.split("/"):
        raise InvalidInput(_WHAT, _presentable(url), "must not hold '..'")
    return LocalLocation(Path(path))


def _memory_location(url: str, parts: SplitResult) -> MemoryLocation:
    if parts.path or _MEMORY_NAME.fullmatch(parts.netloc) is None:
        raise InvalidInput(_WHAT, _presentable(url), "must be memory:// or memory://NAME, NAME of [A-Za-z0-9._-]")
    return MemoryLocation(parts.netloc)


def _presentable(url: str) -> str:
    """Return as much of *url* as may stand in a message: nothing that may hold a secret."""
    scheme, _, rest = url.partition("://")
    if "@" in unquote(rest):
        return f"{scheme}://…"
    return re.split(r"[?#]", url, maxsplit=1)[0]
