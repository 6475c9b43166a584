"""Store URLs: what each scheme takes, and opening what they name.

``s3://bucket/prefix?endpoint_url=…&region=…&addressing_style=…&client=…``, ``gs://bucket/prefix?endpoint_url=…``,
``az://container/prefix?account=…&endpoint_url=…``, ``file:///dir``, ``memory://`` and ``memory://NAME``. The extra
``obstore`` is needed for ``gs:``, ``az:`` and ``client=obstore``.
Credentials never stand in a URL, and no message repeats a part of one in which they might.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.store.arguments import KEY_BYTES_MAX, check_segments
from sessionfs_s3.store.local import LocalStore
from sessionfs_s3.store.memory import MemoryStore
from sessionfs_s3.store.protocol import Store
from sessionfs_s3.store.s3_settings import ClientSettings

if TYPE_CHECKING:
    from sessionfs_s3.store.obstore_store import ObstoreStore

PREFIX_BYTES_MAX: Final = 256
"""Longest prefix in a bucket: leaves three quarters of a key to tenant, session and the object's own name."""

_WHAT: Final = "store URL"
_SCHEMES: Final = ("s3", "gs", "az", "file", "memory")
_S3_PARAMETERS: Final = ("endpoint_url", "region", "addressing_style", "client")
_GOOGLE_PARAMETERS: Final = ("endpoint_url",)
_AZURE_PARAMETERS: Final = ("account", "endpoint_url")
_ADDRESSING_STYLES: Final = ("path", "virtual", "auto")
_CLIENTS: Final = ("aiobotocore", "obstore")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP_ADDRESS: Final = re.compile(r"[0-9]+(?:\.[0-9]+){3}")
_GOOGLE_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_CONTAINER: Final = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_REGION: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_MEMORY_NAME: Final = re.compile(r"[A-Za-z0-9._-]{0,255}")
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket, a prefix in it ("" or with a slash at its end), where the server is, and which client reaches it."""

    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: str | None = None
    client: str | None = None

    @property
    def url(self) -> str:
        """The URL in its canonical form."""
        return f"s3://{self.bucket}/{self.prefix}{_query(self, _S3_PARAMETERS)}"


@dataclass(frozen=True, slots=True)
class GoogleLocation:
    """A bucket on Google Cloud Storage, a prefix in it, and where the server is if it is not Google's own."""

    bucket: str
    prefix: str
    endpoint_url: str | None = None

    @property
    def url(self) -> str:
        """The URL in its canonical form."""
        return f"gs://{self.bucket}/{self.prefix}{_query(self, _GOOGLE_PARAMETERS)}"


@dataclass(frozen=True, slots=True)
class AzureLocation:
    """A container on Azure Blob, a prefix in it, the storage account, and where its server is if not Azure's own."""

    container: str
    prefix: str
    account: str | None = None
    endpoint_url: str | None = None

    @property
    def url(self) -> str:
        """The URL in its canonical form."""
        return f"az://{self.container}/{self.prefix}{_query(self, _AZURE_PARAMETERS)}"


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


Location = S3Location | GoogleLocation | AzureLocation | LocalLocation | MemoryLocation


async def open_store(url: str, *, settings: ClientSettings | None = None) -> Store:
    """Open the store that *url* names. Makes no request; makes the directory of a ``file:`` URL if it is missing.

    Args:
        url: ``s3://bucket/prefix?…``, ``gs://…``, ``az://…``, ``file:///dir``, ``memory://NAME``.
        settings: connections and timeouts, for what is reached over the network.

    Raises:
        InvalidInput: the URL, or the directory that it names, breaks a rule, or needs an extra that is not installed.
        Denied: no credentials, or no permission to open the directory.
        NoAnswer: the disk, or whoever issues the credentials, did not answer.
    """
    location = parse_store_url(url)
    if isinstance(location, MemoryLocation):
        return MemoryStore(location.name)
    if isinstance(location, LocalLocation):
        return await LocalStore.open(location.directory)
    if isinstance(location, GoogleLocation):
        return await _obstore(location.url).open_google(
            location.bucket,
            location.prefix,
            url=location.url,
            endpoint_url=location.endpoint_url,
            settings=settings,
        )
    if isinstance(location, AzureLocation):
        return await _obstore(location.url).open_azure(
            location.container,
            location.prefix,
            url=location.url,
            account=location.account,
            endpoint_url=location.endpoint_url,
            settings=settings,
        )
    return await _open_s3(location, settings)


async def _open_s3(location: S3Location, settings: ClientSettings | None) -> Store:
    opening: Callable[..., Coroutine[object, object, Store]]
    if location.client == "obstore":
        opening = _obstore(location.url).open_s3
    else:
        from sessionfs_s3.store.s3 import S3Store  # Here, for the client alone takes most of a second to import.

        opening = S3Store.open
    return await opening(
        location.bucket,
        location.prefix,
        url=location.url,
        endpoint_url=location.endpoint_url,
        region=location.region,
        addressing_style=location.addressing_style,
        settings=settings,
    )


def _obstore(url: str) -> type[ObstoreStore]:
    try:
        from sessionfs_s3.store.obstore_store import ObstoreStore
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        rule = "needs the extra obstore, which is not installed: pip install 'sessionfs-s3[obstore]'"
        raise InvalidInput(_WHAT, _presentable(url), rule) from None
    return ObstoreStore


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
    if parts.scheme not in _SCHEMES or not url[len(parts.scheme) :].startswith("://"):
        raise InvalidInput(_WHAT, _presentable(url), "must start with s3://, gs://, az://, file:/// or memory://")
    if "@" in parts.netloc:
        rule = "must not hold credentials; they come from the environment, a profile or a role"
        raise InvalidInput(_WHAT, _presentable(url), rule)
    if "#" in url:
        raise InvalidInput(_WHAT, _presentable(url), "must not hold a fragment ('#')")
    if parts.scheme == "s3":
        return _s3_location(url, parts)
    if parts.scheme == "gs":
        return _google_location(url, parts)
    if parts.scheme == "az":
        return _azure_location(url, parts)
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
    given = _parameters(url, parts.query, _S3_PARAMETERS)
    return S3Location(
        bucket,
        _prefix(parts.path),
        endpoint_url=_endpoint_url(given.get("endpoint_url")),
        region=_region(given.get("region")),
        addressing_style=_one_of("addressing_style", given.get("addressing_style"), _ADDRESSING_STYLES),
        client=_one_of("client", given.get("client"), _CLIENTS),
    )


def _google_location(url: str, parts: SplitResult) -> GoogleLocation:
    bucket = parts.netloc
    if not bucket:
        raise InvalidInput(_WHAT, _presentable(url), "must name a bucket: gs://bucket/prefix")
    if _GOOGLE_BUCKET.fullmatch(bucket) is None:
        rule = "must be 3 to 63 lower-case letters, digits, '.', '_' and '-', and start and end with a letter or digit"
        raise InvalidInput("bucket", bucket if ":" not in bucket else "…", rule)
    given = _parameters(url, parts.query, _GOOGLE_PARAMETERS)
    return GoogleLocation(bucket, _prefix(parts.path), endpoint_url=_endpoint_url(given.get("endpoint_url")))


def _azure_location(url: str, parts: SplitResult) -> AzureLocation:
    container = parts.netloc
    if not container:
        raise InvalidInput(_WHAT, _presentable(url), "must name a container: az://container/prefix")
    if _CONTAINER.fullmatch(container) is None:
        rule = "must be 3 to 63 lower-case letters, digits and single '-', and start and end with a letter or digit"
        raise InvalidInput("container", container if ":" not in container else "…", rule)
    given = _parameters(url, parts.query, _AZURE_PARAMETERS)
    account = given.get("account")
    if account is not None and _ACCOUNT.fullmatch(account) is None:
        raise InvalidInput("account", account, "must be 3 to 24 lower-case letters and digits")
    return AzureLocation(
        container, _prefix(parts.path), account=account, endpoint_url=_endpoint_url(given.get("endpoint_url"))
    )


def _prefix(path: str) -> str:
    prefix = path.removeprefix("/").removesuffix("/")
    if prefix or path.startswith("//"):
        check_segments("prefix of the store URL", prefix)
    if len(prefix) > PREFIX_BYTES_MAX:
        raise InvalidInput("prefix of the store URL", prefix, f"must be at most {PREFIX_BYTES_MAX} of {KEY_BYTES_MAX}")
    return f"{prefix}/" if prefix else ""


def _query(location: object, names: tuple[str, ...]) -> str:
    given = {name: value for name in names if (value := getattr(location, name)) is not None}
    return f"?{urlencode(given, safe=':/')}" if given else ""


def _parameters(url: str, query: str, names: tuple[str, ...]) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise InvalidInput(_WHAT, _presentable(url), "parameters must be name=value, joined by '&'") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            raise InvalidInput("parameter of the store URL", name, f"must be one of {', '.join(names)}")
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


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise InvalidInput(name, value, f"must be one of {', '.join(allowed)}")
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
