"""Limits: each is refused by name at its value, and no order of calls makes the counts drift."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import ValidationError

from sessionfs_s3.gateway.auth.limits import (
    FRAME_BYTES_MAX,
    LimitExceeded,
    TenantLimits,
    TenantUsage,
    TokenBucket,
    Usages,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def usage(**limits: object) -> tuple[TenantUsage, Clock]:
    clock = Clock()
    return TenantUsage("acme", TenantLimits.model_validate(limits), clock=clock), clock


def refused(call: Callable[[], object]) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as caught:
        call()
    return caught.value


def test_connections_are_refused_at_their_limit_and_come_back() -> None:
    tenant, _ = usage(connections_max=2)
    tenant.connect()
    tenant.connect()
    error = refused(tenant.connect)
    assert (error.tenant, error.setting, error.value, error.retry_s) == ("acme", "connections_max", 2, None)
    assert "connections_max is 2" in str(error)
    assert tenant.connections == 2
    tenant.disconnect()
    tenant.connect()


def test_a_disconnect_without_a_connect_is_a_bug_and_counts_nothing() -> None:
    tenant, _ = usage()
    with pytest.raises(RuntimeError, match=r"without connect"):
        tenant.disconnect()
    assert tenant.connections == 0


def test_a_session_counts_once_however_often_it_is_opened() -> None:
    tenant, _ = usage(open_sessions_max=2)
    assert tenant.open_session("a")
    assert not tenant.open_session("a")
    assert tenant.open_session("b")
    assert refused(lambda: tenant.open_session("c")).setting == "open_sessions_max"
    assert not tenant.open_session("b"), "one that is open is never refused"
    assert tenant.close_session("a")
    assert not tenant.close_session("a")
    assert tenant.open_session("c")
    assert tenant.open_sessions == {"b", "c"}


def test_an_opening_that_fails_leaves_what_was() -> None:
    tenant, _ = usage()
    tenant.open_session("before")
    for name in ("before", "new"):
        with pytest.raises(OSError, match="no runtime"), tenant.opening(name):
            raise OSError("no runtime")
    assert tenant.open_sessions == {"before"}
    with tenant.opening("new"):
        pass
    assert tenant.open_sessions == {"before", "new"}


def test_requests_are_refused_after_a_burst_and_come_back_with_time() -> None:
    tenant, clock = usage(requests_per_s=4.0, burst=10)
    for _ in range(10):
        tenant.request()
    error = refused(tenant.request)
    assert (error.setting, error.value) == ("requests_per_s", 4.0)
    assert error.retry_s is not None
    assert error.retry_s == pytest.approx(0.25)
    clock.now_s += error.retry_s
    tenant.request()
    refused(tenant.request)
    clock.now_s += 3600
    for _ in range(10):
        tenant.request()
    refused(tenant.request)


def test_a_request_may_bring_its_own_time() -> None:
    tenant, _ = usage(requests_per_s=1.0, burst=1)
    tenant.request(5.0)
    refused(lambda: tenant.request(5.5))
    tenant.request(6.0)


@settings(deadline=None)
@given(
    steps_s=st.lists(st.floats(0, 3), max_size=60),
    per_s=st.floats(0.1, 50),
    burst=st.integers(1, 20),
)
def test_a_bucket_grants_what_the_naive_one_does(steps_s: list[float], per_s: float, burst: int) -> None:
    bucket, now_s = TokenBucket(), 0.0
    tokens = float(burst)
    for step_s in steps_s:
        now_s += step_s
        tokens = min(float(burst), tokens + step_s * per_s)
        if abs(tokens - 1) < 1e-4:
            return  # rounding may decide either way
        granted = bucket.wait_s(now_s, per_s, burst) == 0
        assert granted == (tokens >= 1)
        if granted:
            bucket.take(now_s, per_s)
            tokens -= 1


def test_a_clock_that_goes_back_grants_nothing_extra() -> None:
    tenant, clock = usage(requests_per_s=1.0, burst=2)
    tenant.request()
    tenant.request()
    clock.now_s -= 500
    refused(tenant.request)


def test_what_is_begun_is_refused_once_as_much_is_stored_as_may_be() -> None:
    tenant, _ = usage(bytes_stored_max=100)
    tenant.measured(99)
    tenant.check_stored()
    tenant.measured(100)
    error = refused(tenant.check_stored)
    assert (error.setting, error.value, tenant.bytes_stored) == ("bytes_stored_max", 100, 100)
    unlimited, _ = usage()
    unlimited.measured(10**15)
    unlimited.check_stored()


@pytest.mark.parametrize(
    "limits",
    [
        {"connections_max": 0},
        {"connections_max": True},
        {"connections_max": "5"},
        {"requests_per_s": 0},
        {"requests_per_s": float("nan")},
        {"requests_per_s": float("inf")},
        {"frame_bytes_max": FRAME_BYTES_MAX + 1},
        {"burst": 1.5},
        {"conections_max": 5},
    ],
)
def test_limits_that_are_none_are_refused(limits: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TenantLimits.model_validate(limits)


def test_a_tenants_own_limits_go_before_those_of_all() -> None:
    general = TenantLimits(connections_max=7, burst=9)
    own = TenantLimits(burst=200)
    assert general.overridden(own) == TenantLimits(connections_max=7, burst=200)


def test_usages_are_shared_by_tenant_and_take_new_limits() -> None:
    usages = Usages(clock=Clock())
    first = usages.of("acme", TenantLimits(connections_max=1))
    assert usages.of("other", TenantLimits()) is not first
    first.connect()
    again = usages.of("acme", TenantLimits(connections_max=2))
    assert again is first
    first.connect()
    assert not usages.forget("acme")
    first.disconnect()
    first.disconnect()
    assert usages.forget("acme")
    assert [usage.tenant for usage in usages] == ["other"]


class Counting(RuleBasedStateMachine):
    """Connections and sessions in any order, with failures, against the plainest model."""

    def __init__(self) -> None:
        super().__init__()
        self.tenant, _ = usage(connections_max=3, open_sessions_max=3)
        self.connections = 0
        self.sessions: set[str] = set()

    @rule()
    def connect(self) -> None:
        if self.connections == 3:
            refused(self.tenant.connect)
        else:
            self.tenant.connect()
            self.connections += 1

    @precondition(lambda self: self.connections > 0)
    @rule()
    def disconnect(self) -> None:
        self.tenant.disconnect()
        self.connections -= 1

    @rule(name=st.sampled_from("abcde"), fails=st.booleans())
    def opening(self, name: str, fails: bool) -> None:
        if name not in self.sessions and len(self.sessions) == 3:
            refused(lambda: self.tenant.open_session(name))
        elif fails:
            with pytest.raises(ZeroDivisionError), self.tenant.opening(name):
                raise ZeroDivisionError
        else:
            assert self.tenant.open_session(name) == (name not in self.sessions)
            self.sessions.add(name)

    @rule(name=st.sampled_from("abcde"))
    def close(self, name: str) -> None:
        assert self.tenant.close_session(name) == (name in self.sessions)
        self.sessions.discard(name)

    @invariant()
    def same(self) -> None:
        assert (self.tenant.connections, set(self.tenant.open_sessions)) == (self.connections, self.sessions)


TestCounting = Counting.TestCase
TestCounting.settings = settings(deadline=None)
