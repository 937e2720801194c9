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
    ack_delay: float = 0.020  # an ack goes alone after this, or after replay_limit / 8 or 512 KiB
    gap_timeout: float = 10.0  # an unfilled gap fails the connection
    ping_payload_limit: int = 16 * KIB  # of a PING
    ping_active_silence: float = 5.0  # while an exchange runs: ping after this silence
    ping_active_timeout: float = 5.0  # while an exchange runs: it has this long to answer
    ping_idle_silence: float = 20.0  # while none runs: ping after this silence
    ping_idle_timeout: float = 10.0  # while none runs: it has this long to answer
    opening_timeout: float = 10.0  # a connection that never attaches is closed after this
    grace: float = 30.0  # a detached session is kept this long
    min_message: int = 4 * KIB  # the smallest that is made on a slow link
    message_time: float = 0.100  # a message holds about what passes in this time

    # -- multiplexer (core/multiplexer.py) -----------------------------------------------------
    max_streams: int = 1000  # open at once, a session
    receive_budget: int = 24 * MIB  # B: what a session grants in sum
    stream_floor: int = 16 * KIB  # what every permitted stream owns
    stream_first_window: int = 256 * KIB  # what may come of a new stream before its first credit, at most
    stream_max_window: int = 4 * MIB  # a stream's credit, at most
    send_buffer: int = 64 * KIB  # a stream
    send_share: int = MIB  # a session: what its streams may buffer in sum, so that few of them fill a message
    send_share_beside: int = 256 * KIB  # the same, at most, where small exchanges come beside transfers
    frame_payload: int = 16 * KIB  # a turn of one stream beside others, at least
    turn_time: float = 0.00025  # what passes in this time is a turn where that is more, to 65,535 bytes
    head_block_limit: int = 80 * KIB  # one encoded head, trailer section or 1xx
    resets_before_answer: int = 1000  # within resets_window: ends the session
    resets_window: float = 10.0  # see resets_before_answer
    max_buffered_bytes: int = 256 * MIB  # receive, replay, send and queue bytes of the whole process end

    # -- HTTP (heads.py, http/) ----------------------------------------------------------------
    head_limit: int = 64 * KIB  # a head's bytes
    field_limit: int = 100  # a head's lines
    request_line_limit: int = 16 * KIB  # its first line
    head_timeout: float = 15.0  # for a request's head to be whole
    keep_alive_idle: float = 75.0  # a caller's connection between requests
    body_idle_timeout: float = 300.0  # a body of which no byte comes
    min_rate: float = 100.0  # averaged over min_rate_period while the peer is what is waited for
    min_rate_period: float = 30.0  # see min_rate
    write_timeout: float = 60.0  # a peer that takes no byte
    read_ahead: int = 64 * KIB  # of a caller's body (what a socket reads and writes ahead: net/stream.py)
    linger_time: float = 1.0  # after an early final answer, the rest of the request is read for so long
    linger_bytes: int = 64 * KIB  # or up to so much

    # -- dialling ------------------------------------------------------------------------------
    dial_timeout: float = 10.0  # for a connection with all its handshakes
    retry_first: float = 0.100  # dials are at least this apart
    retry_cap_resumable: float = 2.0  # and at most this, while the session can still be resumed
    retry_cap: float = 15.0  # and at most this afterwards
    retry_tls: float = 60.0  # after a TLS failure, which seldom mends itself

    # -- long-poll, and the choice of a transport (transports/longpoll.py, core/choice.py) -------
    poll_hold_idle: float = 25.0  # a poll waits this long for something to answer,
    poll_hold_active: float = 5.0  # and this long while an exchange runs
    poll_answer_timeout: float = 5.0  # beyond the hold: how long the client waits for an answer
    poll_absence: float = 10.0  # the server gives a connection up when no poll was open for so long
    poll_posts: int = 4  # in flight at a time
    poll_body: int = MIB  # the largest message, either way
    first_answer_timeout: float = 4.0  # for the first message of a connection, with another way left
    probe_first: float = 10.0  # a better transport is tried after this, doubling
    probe_cap: float = 600.0  # up to this
    probe_timeout: float = 10.0  # for such a try

    # -- server (gateway.py, sessions.py, core/registry.py) ------------------------------------
    max_requests_per_tunnel: int = 20  # queued
    max_clients_per_token: int = 0  # 0: unlimited
    queue_timeout: float = 60.0  # a request's longest wait for a client
    response_head_timeout: float = 60.0  # and then for its answer's head, while the origin takes no byte
    known_token_time: float = 3600.0  # a token is known for so long after its last client left
    known_tokens: int = 10_000  # of those, the most that are kept
    startup_wait: float = 30.0  # after its start, the server lets requests for unknown tokens wait for so long
    startup_waiting: int = 1000  # so many of them
    max_sessions: int = 20_000  # of the whole server
    connections_per_address: int = 0  # callers and clients; loopback and trusted proxies not counted. 0: unlimited
    failed_registrations_per_minute: int = 20  # an address (IPv6: a /64), or a token where all come from loopback
    silent_client_ping: float = 2.0  # a silent client has this long to answer before a newcomer is refused
    drain_timeout: float = 25.0  # what runs may finish, and is broken off then
    early_post_limit: int = 4 * MIB  # a session: posts that came before the one whose turn it is

    # -- origin (origins/) ---------------------------------------------------------------------
    origin_wait: float = 5.0  # for one that was there, while it starts again: requests never sent. 0: none
    origin_idle: float = 60.0  # a kept-alive connection to an origin
    origin_connections_idle: int = 100  # that are kept for an origin
    origins_named: int = 100  # by X-Host, whose connections are kept; the one used longest ago is let go

    # -- apps in the client's own process (origins/) --------------------------------------------
    app_calls: int = 1000  # that run at once, those whose callers left included
    app_websocket_message: int = MIB  # received; characters of a text message
    app_startup_timeout: float = 60.0  # ASGI's lifespan
    app_shutdown_timeout: float = 10.0  # ASGI's lifespan
    wsgi_threads: int = 40  # WSGI calls that run at once

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
        "send_share_beside",
        "turn_time",
        "startup_wait",
        "origin_wait",
        "origin_connections_idle",
    }
)

DEFAULT_LIMITS = Limits()
