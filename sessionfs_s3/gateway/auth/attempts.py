"""How often a client may fail to say who it is: per address, and in total.

Memory is bounded whatever comes. No input or output; the clock is injected. For one event loop.

What is bounded are failures of *unknown* credentials: one that proved good within the last hour is never refused for
what others do, so an attacker behind the same load balancer does not lock out the clients that are there already. This
is the idea of the device cookie (https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies)
with the credential itself for a cookie. A refused attempt counts nothing, so whoever stops is served again within
seconds, and even under attack a newcomer is let through now and then.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

from sessionfs_s3.gateway.auth.limits import TokenBucket

ADDRESS_BURST: Final = 20
ADDRESS_PER_S: Final = 0.5
"""Failures of one address: a handful of misconfigured clients goes unnoticed, a guesser gets 43,200 tries a day."""

TOTAL_BURST: Final = 500
TOTAL_PER_S: Final = 50.0
"""Failures of all addresses: 50 signatures a second cost under one hundredth of a core."""

ADDRESSES_MAX: Final = 10_000
"""Addresses remembered, those that failed last. Whoever has more is held by the total."""

GOOD_MAX: Final = 10_000
GOOD_S: Final = 3600.0
"""Good credentials remembered, those used last, and for how long."""

_OTHER: Final = ""


class FailedAttempts:
    """The failures of the last minutes, and the credentials that proved good in the last hour.

    Attributes:
        failures: attempts that failed, since the start.
        refusals: attempts that were not looked at, since the start.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with none; *clock* tells seconds and does not go back."""
        self.failures = 0
        self.refusals = 0
        self._clock = clock
        self._total = TokenBucket()
        self._addresses: OrderedDict[str, TokenBucket] = OrderedDict()
        self._good_until_s: OrderedDict[bytes, float] = OrderedDict()

    def wait_s(self, peer: str, digest: bytes) -> float:
        """Return for how many seconds attempts from *peer* with the credential of *digest* are refused; 0: not at all.

        A refusal is counted in :attr:`refusals` and nowhere else.
        """
        now_s = self._clock()
        if self._good_until_s.get(digest, -math.inf) > now_s:
            return 0.0
        wait_s = self._total.wait_s(now_s, TOTAL_PER_S, TOTAL_BURST)
        bucket = self._addresses.get(address_group(peer))
        if bucket is not None:
            wait_s = max(wait_s, bucket.wait_s(now_s, ADDRESS_PER_S, ADDRESS_BURST))
        if wait_s > 0:
            self.refusals += 1
        return wait_s

    def failed(self, peer: str, digest: bytes) -> bool:
        """Count a failure of *peer*; return whether it was the last one before its attempts are refused."""
        now_s = self._clock()
        self.failures += 1
        self._good_until_s.pop(digest, None)
        self._total.take(now_s, TOTAL_PER_S)
        group = address_group(peer)
        bucket = self._addresses.setdefault(group, TokenBucket())
        self._addresses.move_to_end(group)
        bucket.take(now_s, ADDRESS_PER_S)
        if len(self._addresses) > ADDRESSES_MAX:
            self._addresses.popitem(last=False)
        return bucket.wait_s(now_s, ADDRESS_PER_S, ADDRESS_BURST) > 0

    def succeeded(self, digest: bytes) -> None:
        """Remember that the credential of *digest* is good. Takes no failure back: those may be another's."""
        self._good_until_s[digest] = self._clock() + GOOD_S
        self._good_until_s.move_to_end(digest)
        if len(self._good_until_s) > GOOD_MAX:
            self._good_until_s.popitem(last=False)


def address_group(peer: str) -> str:
    """Return whose failures those of *peer* are: its IPv4 address, or its IPv6 network of 64 bits (RFC 6177).

    *peer* is an address without a port. An IPv4 address written as IPv6 is the former; whatever is no address at all
    shares one name.
    """
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return _OTHER
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)
