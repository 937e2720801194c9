"""Which origin a request is for, and whether it may go there: the client's own judgement (design, section 9)."""

from __future__ import annotations

from ..errors import HeadError
from ..heads import RequestHead
from .allowlist import TCP_SCHEMES, HostAllowlist, HostOrigin, parse_x_host
from .rules import RuleSet, Verdict

__all__ = ["Guard"]

# What stands for an origin without a URL of its own (a unix socket, an app) where rules judge URLs.
_HERE = HostOrigin("http", "localhost", 80)


class Guard:
    """``allowlist`` has the origins that callers may name, ``rules`` judge every request. ``own`` is the configured
    origin, if it has a URL, and ``prefix`` what stands in front of its paths; ``serves``: there is one at all."""

    def __init__(
        self,
        *,
        allowlist: HostAllowlist,
        rules: RuleSet,
        own: HostOrigin | None = None,
        prefix: bytes = b"",
        serves: bool = True,
    ) -> None:
        self.own = own
        self._allowlist = allowlist
        self._rules = rules
        self._prefix = prefix
        self._serves = serves
        self._lets_all_pass = serves and not rules

    def __repr__(self) -> str:
        return f"<Guard {self._allowlist!r} {self._rules!r}>"

    def choose(self, head: RequestHead, x_host: bytes | None, *, by_destination: bool = False) -> HostOrigin | None:
        """The origin that the request names and may go to; None for the configured one. ``by_destination``: it was
        named in wsp's way, by which the configured one may be named too. Raises ``HeadError``."""
        if x_host is None:
            if not self._lets_all_pass:
                self._check_plain(head)
            return None
        wanted = parse_x_host(x_host)
        verdict = self._rules.judge(head, wanted, head.target)
        if not self._may_go(wanted, verdict, by_destination=by_destination):
            code, what = ("destination_refused", "destination") if by_destination else ("x_host_refused", "X-Host")
            raise HeadError(403, code, f"the client does not go to this {what}")
        return wanted

    def choose_bytes(self, head: RequestHead, x_host: bytes | None) -> HostOrigin:
        """The tcp:// destination of a stream of bytes. Raises ``HeadError``, for one without any too."""
        wanted = parse_x_host(x_host or b"", schemes=TCP_SCHEMES)
        forbidden = self._rules.judge(head, wanted, head.target) is Verdict.FORBIDDEN
        if forbidden or not self._allowlist.allows(wanted):
            raise HeadError(403, "x_host_refused", "the client does not go to this tcp:// destination")
        return wanted

    def _check_plain(self, head: RequestHead) -> None:
        if not self._serves:
            raise HeadError(403, "x_host_refused", "this client serves only requests with an X-Host field")
        if self._rules.judge(head, self.own or _HERE, self._prefix + head.target) is Verdict.FORBIDDEN:
            raise HeadError(403, "destination_refused", "the client's rules forbid this request")

    def _may_go(self, wanted: HostOrigin, verdict: Verdict, *, by_destination: bool) -> bool:
        if verdict is Verdict.FORBIDDEN:
            return False
        if verdict is Verdict.ALLOWED or self._allowlist.allows(wanted):
            return True
        # Where neither patterns nor a whitelist say more, a destination may be the configured origin alone.
        return by_destination and verdict is Verdict.OPEN and not self._allowlist and wanted == self.own
