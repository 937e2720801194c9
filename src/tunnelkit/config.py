"""One frozen, validated place for every limit and clock, with its unit.

Sizes are bytes, times are seconds, rates are bytes a second, unless a name says otherwise.
The numbers are the defaults of the design's sections 4, 5, 8 and 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from .errors import ConfigError

__all__ = ["DEFAULT_LIMITS", "KIB", "MIB", "SMALLEST_WINDOW", "Limits"]

KIB = 1024
MIB = 1024 * KIB

# No session works with less replay (docs/wire-format.md): a message, and control beside it, must always fit.
SMALLEST_WINDOW = 8 * KIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """All limits and clocks of one end. Make another with ``dataclasses.replace``.

    Raises ``ConfigError`` naming the field when a value is out of its range.

        >>> Limits(queue_timeout=20.0).queue_timeout
        20.0
        >>> Limits(queue_timeout=0)
        Traceback (most recent call last):
        tunnelkit.errors.ConfigError: queue_timeout: must be greater than 0, got 0
    """

    # -- session (core/session.py) -------------------------------------------------------------
    replay_limit: int = 4 * MIB  # R: sent and not acknowledged, a direction
    replay_floor: int = 8 * KIB  # what a session may always hold of it, whatever the server's pressure
    control_reserve: int = 64 * KIB  # frames of control that get out though R is full
    ack_delay: float = 0.020  # an ack goes alone after this, or after replay_limit / 8
    gap_timeout: float = 10.0  # an unfilled gap fails the connection
    ping_payload_limit: int = 16 * KIB
    ping_active_silence: float = 5.0  # while an exchange runs: ping after this silence,
    ping_active_timeout: float = 5.0  # and this long to answer
    ping_idle_silence: float = 20.0
    ping_idle_timeout: float = 10.0
    opening_timeout: float = 10.0  # a connection that never attaches
    grace: float = 30.0  # a detached session
    min_message: int = 4 * KIB
    message_time: float = 0.100  # a message holds about what passes in this time

    # -- multiplexer (core/multiplexer.py) -----------------------------------------------------
    max_streams: int = 1000  # open at once, a session
    receive_budget: int = 24 * MIB  # B: what a session grants in sum
    stream_floor: int = 16 * KIB  # what every permitted stream owns
    stream_first_window: int = 256 * KIB
    stream_max_window: int = 4 * MIB
    send_buffer: int = 64 * KIB  # a stream
    send_share: int = MIB  # a session: what its streams may buffer in sum, so that few of them fill a message
    frame_payload: int = 16 * KIB  # a turn of one stream
    head_block_limit: int = 80 * KIB  # one encoded head, trailer section or 1xx
    resets_before_answer: int = 1000  # within resets_window: ends the session
    resets_window: float = 10.0
    max_buffered_bytes: int = 256 * MIB  # receive, replay, send and queue bytes of the whole process end

    # -- HTTP (heads.py, http/) ----------------------------------------------------------------
    head_limit: int = 64 * KIB
    field_limit: int = 100
    request_line_limit: int = 16 * KIB
    head_timeout: float = 15.0
    keep_alive_idle: float = 75.0
    body_idle_timeout: float = 300.0
    min_rate: float = 100.0  # averaged over min_rate_period while the peer is what is waited for
    min_rate_period: float = 30.0
    write_timeout: float = 60.0  # without progress
    read_ahead: int = 64 * KIB  # of a caller's body (what a socket reads and writes ahead: net/stream.py)
    linger_time: float = 1.0  # after an early final answer
    linger_bytes: int = 64 * KIB

    # -- dialling ------------------------------------------------------------------------------
    dial_timeout: float = 10.0
    retry_first: float = 0.100  # dials at least this apart
    retry_cap_resumable: float = 2.0
    retry_cap: float = 15.0
    retry_tls: float = 60.0  # a TLS failure is retried slowly

    # -- long-poll, and the choice of a transport (transports/longpoll.py, core/choice.py) -------
    poll_hold_idle: float = 25.0  # a poll waits this long for something to answer,
    poll_hold_active: float = 5.0  # and this long while an exchange runs
    poll_answer_timeout: float = 5.0  # beyond the hold: the client's patience
    poll_absence: float = 10.0  # the server's, while no poll is open
    poll_posts: int = 4  # in flight
    poll_body: int = MIB  # the largest message, either way
    first_answer_timeout: float = 4.0  # for the first message of a connection, with another way left
    probe_first: float = 10.0  # a better transport is tried after this, doubling
    probe_cap: float = 600.0
    probe_timeout: float = 10.0

    # -- server (gateway.py, sessions.py, core/registry.py) ------------------------------------
    max_requests_per_tunnel: int = 20  # queued
    max_clients_per_token: int = 0  # 0: unlimited
    queue_timeout: float = 60.0
    response_head_timeout: float = 60.0
    known_token_time: float = 3600.0
    known_tokens: int = 10_000
    startup_wait: float = 30.0
    startup_waiting: int = 1000
    max_sessions: int = 20_000
    connections_per_address: int = 0  # callers and clients; loopback and trusted proxies not counted. 0: unlimited
    failed_registrations_per_minute: int = 20
    silent_client_ping: float = 2.0  # before a newcomer is refused
    drain_timeout: float = 25.0
    early_post_limit: int = 4 * MIB

    # -- origin (origins/) ---------------------------------------------------------------------
    origin_wait: float = 5.0  # for one that was there, while it starts again: requests never sent. 0: none
    origin_idle: float = 60.0  # a kept-alive connection to an origin
    origin_connections_idle: int = 100
    origins_named: int = 100  # by X-Host, whose connections are kept; the one used longest ago is let go

    # -- apps in the client's own process (origins/) --------------------------------------------
    app_calls: int = 1000  # that run at once, those whose callers left included
    app_websocket_message: int = MIB  # received; characters of a text message
    app_startup_timeout: float = 60.0  # ASGI's lifespan
    app_shutdown_timeout: float = 10.0
    wsgi_threads: int = 40

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
                raise ConfigError(field.name, f"must be a number, got {value!r}")
            if value < 0 or (value == 0 and field.name not in _MAY_BE_ZERO):
                raise ConfigError(field.name, f"must be greater than 0, got {value!r}")
            if isinstance(field.default, int) and not isinstance(value, int):
                raise ConfigError(field.name, f"must be a whole number, got {value!r}")
        if self.grace < self.detection_active + self.dial_timeout + self.retry_cap_resumable:
            raise ConfigError(
                "grace",
                f"{self.grace:g} s is too short for a lost connection to be noticed and dialled again",
                "give at least ping_active_silence + ping_active_timeout + dial_timeout + "
                f"retry_cap_resumable = {self.detection_active + self.dial_timeout + self.retry_cap_resumable:g} s",
            )
        if self.stream_max_window < self.stream_first_window or self.stream_first_window < self.stream_floor:
            raise ConfigError("stream_first_window", "must lie between stream_floor and stream_max_window")
        if self.frame_payload > 65_535:
            raise ConfigError("frame_payload", "must be at most 65535, the length field's range")
        if self.head_limit > self.head_block_limit:
            raise ConfigError("head_limit", "must be at most head_block_limit")
        self._check_memory()

    def _check_memory(self) -> None:
        if self.replay_limit < SMALLEST_WINDOW:
            raise ConfigError("replay_limit", f"must be at least {SMALLEST_WINDOW}, the smallest that a peer accepts")
        if self.replay_floor > self.replay_limit:
            raise ConfigError("replay_floor", "must be at most replay_limit, of which it is the part held for sure")
        floors = self.max_streams * self.stream_floor
        if self.receive_budget < floors:
            raise ConfigError(
                "receive_budget",
                f"{self.receive_budget} bytes do not hold the floor of every stream that may open",
                f"give at least max_streams * stream_floor = {floors} bytes, or lower one of these",
            )

    @property
    def detection_active(self) -> float:
        """Seconds until a silent connection is given up while an exchange runs."""
        return self.ping_active_silence + self.ping_active_timeout


# Zero means "unlimited", "none" or "at once" for these.
_MAY_BE_ZERO = frozenset(
    {
        "connections_per_address",
        "linger_bytes",
        "linger_time",
        "max_clients_per_token",
        "send_share",
        "startup_wait",
        "origin_wait",
        "origin_connections_idle",
    }
)

DEFAULT_LIMITS = Limits()
