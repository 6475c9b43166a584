"""Trying again: one policy for every request of the engine, with full jitter, under one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from sessionfs_s3.errors import Conflict, Denied, NoAnswer, Refused, Unavailable
from sessionfs_s3.volume.environment import Environment

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often to try.

    Attributes:
        deadline_s: how long one verb may take with all its tries, in seconds; then it fails loudly.
        backoff_s_min: the longest first pause between two tries, in seconds; it doubles with each.
        backoff_s_max: the longest pause, in seconds.
    """

    deadline_s: float = 30.0
    backoff_s_min: float = 0.05
    backoff_s_max: float = 2.0

    async def pause(self, environment: Environment, tries: int) -> None:
        """Wait before the next try, after *tries* of them.

        Full jitter: a uniform part of an exponentially growing bound, as in the AWS Architecture Blog's "Exponential
        Backoff And Jitter".
        """
        bound_s = min(self.backoff_s_max, self.backoff_s_min * 2.0 ** min(tries - 1, 16))
        await asyncio.sleep(bound_s * environment.uniform())


async def until_answered(
    what: str,
    request: Callable[[], Awaitable[T]],
    patience: Patience,
    environment: Environment,
) -> T:
    """Return the answer to an idempotent *request*, trying again while the store gives none; *what* names it in errors.

    Raises:
        Unavailable: no answer within the deadline.
        Refused: the store refuses for good.
        StoreAnswer: any other answer, for the caller to interpret.
    """
    last = "no answer"
    tries = 0
    try:
        async with asyncio.timeout(patience.deadline_s):
            while True:
                tries += 1
                try:
                    return await request()
                except (NoAnswer, Conflict) as answer:
                    last = str(answer)
                except Denied as answer:
                    raise Refused(f"{what}: the store refuses: {answer}") from answer
                await patience.pause(environment, tries)
    except TimeoutError:
        raise Unavailable(f"{what}: no answer in {patience.deadline_s:g} s and {tries} tries: {last}") from None
