"""Every setting, in one model: from arguments, the environment (``SESSIONFS_*``) or a TOML file, in this order.

The TOML file is the one that ``SESSIONFS_CONFIG`` names. A value that is not acceptable is refused by name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.fs import joined, parse
from sessionfs_s3.sqlite import WORKERS_MAX, Limits
from sessionfs_s3.volume import VolumeOptions
from sessionfs_s3.volume.cache import CACHE_BYTES
from sessionfs_s3.volume.retry import Patience

CONFIG_VARIABLE = "SESSIONFS_CONFIG"

_TEN_YEARS_S = 315_360_000

_IF_IDLE = re.compile(r"if-idle:([0-9]{1,9}(?:\.[0-9]{1,9})?)")


class Settings(BaseSettings):
    """How a session file system behaves. Durations are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="SESSIONFS_", extra="forbid", frozen=True)

    working_directory: str = Field(
        default="/workspace",
        description="Where the agent's tools work; exists from the start.",
    )
    session_state_path: str = Field(
        default="/session-state",
        description="Where the runtime keeps the conversation; exists from the start.",
    )
    durability: Literal["born", "strict"] = Field(
        default="born",
        description=(
            "'born': what comes before the session's first message is acknowledged at once, because no runtime could "
            "resume the session yet, and everything else when it is stored. 'strict': all of it when it is stored."
        ),
    )
    deadline_s: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="How long one verb may take with all its tries before it fails.",
    )
    backoff_s_min: float = Field(
        default=0.05,
        gt=0,
        le=60,
        description="The longest first pause before another try; it doubles with each.",
    )
    backoff_s_max: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="The longest pause before another try.",
    )
    takeover: str = Field(
        default="always",
        description=(
            "'always': opening a session takes it over from whoever has it. 'if-idle:SECONDS': it is refused (EBUSY) "
            "while somebody wrote less than so many seconds ago."
        ),
    )
    probe: bool = Field(
        default=True,
        description="Find out, before a process first writes to a store, whether that can carry sessions.",
    )
    linger_s: float = Field(
        default=5.0,
        ge=0,
        le=60,
        description="How long changes before the first message wait for company.",
    )
    snapshot_commits: int = Field(
        default=16,
        ge=1,
        le=512,
        description="Commits after which a snapshot is written.",
    )
    snapshot_bytes_min: int = Field(
        default=256 * 1024,
        ge=1024,
        description="Bytes of commits after which a snapshot is written, at the least.",
    )
    retention_s: float = Field(
        default=0.0,
        ge=0,
        le=_TEN_YEARS_S,
        description="How far back states of a session stay readable; 0: what the last two snapshots need.",
    )
    idle_s: float | None = Field(
        default=300.0,
        gt=0,
        le=_TEN_YEARS_S,
        description="After how long without a call an open session gives its memory back.",
    )
    sqlite_call_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="How long one SQL statement, script or transaction may run.",
    )
    sqlite_bytes_max: int = Field(
        default=256 * 1024 * 1024,
        ge=64 * 1024,
        le=4 * 1024**3,
        description="How large a session's database may be; beyond, SQL fails with EDQUOT and changes nothing.",
    )
    sqlite_processes: int = Field(
        default=WORKERS_MAX,
        ge=1,
        le=4096,
        description="How many databases are kept open at a time, each in a process of its own; others are made anew.",
    )
    cache_bytes: int = Field(
        default=CACHE_BYTES,
        ge=0,
        description="How much of the files' contents the process keeps, for all sessions together.",
    )

    @field_validator("working_directory", "session_state_path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/"):
            raise ValueError("must be an absolute POSIX path")
        try:
            path = parse(value)
        except OSError as error:
            raise ValueError(error.strerror) from None
        if not path:
            raise ValueError("must not be the root")
        return joined(path)

    @field_validator("takeover")
    @classmethod
    def _takeover(cls, value: str) -> str:
        if value != "always" and _IF_IDLE.fullmatch(value) is None:
            raise ValueError("must be 'always' or 'if-idle:SECONDS'")
        return value

    @model_validator(mode="after")
    def _backoff(self) -> Self:
        if self.backoff_s_min > self.backoff_s_max:
            raise ValueError(f"backoff_s_min must not be over backoff_s_max, which is {self.backoff_s_max:g}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments before the environment before the file."""
        del dotenv_settings, file_secret_settings
        file = os.environ.get(CONFIG_VARIABLE)
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, file)) if file else sources

    @classmethod
    def load(cls, **arguments: object) -> Settings:
        """Return the settings in force, *arguments* first.

        Raises:
            InvalidInput: a setting is unknown or not acceptable, or the file cannot be read.
        """
        file = os.environ.get(CONFIG_VARIABLE)
        if file and not Path(file).is_file():
            raise InvalidInput(CONFIG_VARIABLE, file, "must name a readable TOML file")
        try:
            return cls(**cast("dict[str, Any]", arguments))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "settings"
            rule = first["msg"].removeprefix("Value error, ")
            raise InvalidInput(f"setting {name}", first.get("input"), rule) from None
        except ValueError as error:
            raise InvalidInput(CONFIG_VARIABLE, file, f"must be a valid TOML file: {error}") from None

    def volume_options(self) -> VolumeOptions:
        """Return the part of the settings that a volume works with."""
        return VolumeOptions(
            patience=Patience(self.deadline_s, self.backoff_s_min, self.backoff_s_max),
            directories=(self.working_directory, self.session_state_path),
            takeover_idle_s=float(if_idle[1]) if (if_idle := _IF_IDLE.fullmatch(self.takeover)) else None,
            linger_s=self.linger_s,
            idle_s=self.idle_s,
            retention_s=self.retention_s,
            snapshot_commits=self.snapshot_commits,
            snapshot_bytes_min=self.snapshot_bytes_min,
            database=Limits(call_s=self.sqlite_call_s, database_bytes_max=self.sqlite_bytes_max),
        )
