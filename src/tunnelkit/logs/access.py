"""The four lines that follow a request through one end."""

from __future__ import annotations

import logging
from functools import lru_cache, partial
from time import time
from typing import ClassVar, Final

from .loggers import ACCESS
from .records import AccessRecord, Kind, Lines, always_of
from .text import Value, mask_target, mask_userinfo, quoted

__all__ = ["AccessLog"]

_RECEIVED: Final[Kind] = "HTTP RCV", ("pkg", "token", "id", "verb", "url", "addr", "x-host", "try")
_SENT: Final[Kind] = "WS   SND", ("pkg", "token", "id", "info", "ws", "try")
_ANSWER: Final[Kind] = "WS   RCV", ("pkg", "token", "id", "ws", "len")
_RETURNED: Final[Kind] = "HTTP RET", ("pkg", "token", "id", "status", "bytes", "ms", "outcome")

_TEXTS_KEPT = 256  # of tokens, and of other words: most requests have the same few
_TARGETS_KEPT, _TARGET_KEPT = 256, 256  # requests whose text is, and the size of the longest


class AccessLog:
    """The lines HTTP RCV, WS SND, WS RCV and HTTP RET of one end. Tokens are given masked.

    The outer two are INFO, the inner two DEBUG; a program that wants them at another level sets ``inner_level`` of
    the class. Each costs one check when its level is off. To be made in the thread that writes them,
    whose name stands in the records. Each line's text is put together here, as ``log_event`` would: its fields are
    known, and of most of them it is known that nothing in them wants quotes.

    It is not to be inherited from, and takes no attributes of a single log: a release has it compiled.
    """

    inner_level: ClassVar[int] = logging.DEBUG  # of WS SND and WS RCV
    # Who gets them in place of the logger's handlers, unless it has filters; to be set as ``inner_level`` is.
    lines: ClassVar[Lines | None] = None

    def __init__(self, pkg: str = "tunnelkit.server", logger: logging.Logger = ACCESS) -> None:
        self._pkg = pkg
        self._logger = logger
        self._always = lru_cache(_TEXTS_KEPT)(partial(always_of, logger.name))
        self._whose = lru_cache(_TEXTS_KEPT)(partial(_whose, pkg))
        self._shown = lru_cache(_TEXTS_KEPT)(quoted)

    def received(
        self,
        *,
        id: int,
        token: str,
        verb: str | bytes,
        url: str | bytes,
        addr: str,
        x_host: str | bytes = "",
        attempt: int | None = None,
    ) -> None:
        """HTTP RCV: a request came and has its place. ``attempt`` is given from the second on."""
        if self._logger.isEnabledFor(logging.INFO):
            asked = _asked_once if len(url) + len(x_host) > _TARGET_KEPT else _asked
            url, x_host, shown = asked(verb, url, addr, x_host)
            text = f"HTTP RCV     {self._whose(token)}{id} {shown} try={'' if attempt is None else attempt}"
            values = (self._pkg, token, id, verb, url, addr, x_host, attempt)
            self._write(logging.INFO, _RECEIVED, values, text)

    def sent(self, *, id: int, token: str, info: str | bytes, ws: str = "", attempt: int | None = None) -> None:
        """WS SND: the request goes to the session ``ws``. ``info`` is its method and target."""
        if self._logger.isEnabledFor(level := self.inner_level):
            info, shown = (_info_once if len(info) > _TARGET_KEPT else _info)(info)
            again = "" if attempt is None else attempt
            text = f"WS   SND     {self._whose(token)}{id} info={shown} ws={self._shown(ws)} try={again}"
            self._write(level, _SENT, (self._pkg, token, id, info, ws, attempt), text)

    def answer(self, *, id: int, token: str, ws: str = "", length: int | None = None) -> None:
        """WS RCV: the answer's head came back through the session; ``length`` is what it says of its body."""
        if self._logger.isEnabledFor(level := self.inner_level):
            shown = "" if length is None else length
            text = f"WS   RCV     {self._whose(token)}{id} ws={self._shown(ws)} len={shown}"
            self._write(level, _ANSWER, (self._pkg, token, id, ws, length), text)

    def returned(self, *, id: int, token: str, status: int, sent: int, seconds: float, outcome: str) -> None:
        """HTTP RET: the exchange is over. ``sent`` counts the answer's body bytes that the caller was given."""
        if self._logger.isEnabledFor(logging.INFO):
            ms = round(seconds * 1000)
            how = self._shown(outcome)
            text = f"HTTP RET     {self._whose(token)}{id} status={status} bytes={sent} ms={ms} outcome={how}"
            values = (self._pkg, token, id, status, sent, ms, outcome)
            self._write(logging.INFO, _RETURNED, values, text)

    def _write(self, level: int, kind: Kind, values: tuple[Value, ...], text: str) -> None:
        lines, logger = self.lines, self._logger
        if lines is not None and not logger.filters:
            lines.take_line(time(), level, text)
            return
        record = AccessRecord(self._always(level), kind, values, text)
        if logger.filters:
            logger.handle(record)
        else:  # what is left of it: it is known that the logger is not disabled
            logger.callHandlers(record)


def _whose(pkg: str, token: str) -> str:
    return f" pkg={quoted(pkg)} token={quoted(token)} id="


# Callers ask the same again and again: what is shown of it is made once, where it is short.


def _asked_once(verb: str | bytes, url: str | bytes, addr: str, x_host: str | bytes) -> tuple[str, str | bytes, str]:
    """The target and X-Host without their secrets, and all of it as it stands on the line."""
    url, x_host = mask_target(url), mask_userinfo(x_host)
    return url, x_host, f"verb={quoted(verb)} url={quoted(url)} addr={quoted(addr)} x-host={quoted(x_host)}"


def _info_once(info: str | bytes) -> tuple[str, str]:
    """Method and target without secrets, and as they stand on the line."""
    masked = mask_target(info)
    return masked, quoted(masked)


_asked = lru_cache(maxsize=_TARGETS_KEPT)(_asked_once)
_info = lru_cache(maxsize=_TARGETS_KEPT)(_info_once)
