"""The one table of flags. From it come the parser, ``--help``, the environment's and the configuration's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import kinds

__all__ = ["CLIENT", "RULE", "RULES", "SERVER", "TOKEN", "TUNNEL", "VARIABLES", "Option", "Refused"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One flag: ``--name VALUE``, ``TUNNELKIT_<NAME>`` in the environment, ``name`` in the configuration file."""

    name: str
    help: str
    kind: Callable[[str], Any] = kinds.text  # raises ValueError: what is wrong with the value
    metavar: str = ""  # of its value; "" for a switch
    default: Any = None
    aliases: tuple[str, ...] = ()
    repeat: bool = False  # the value is a list
    secret: bool = False  # never shown, and a file that holds it should be its owner's alone
    only_argument: bool = False  # makes no sense in a file or in the environment
    in_file: bool = True  # may stand in the configuration file

    @property
    def switch(self) -> bool:
        return not self.metavar

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return f"TUNNELKIT_{self.key.upper()}"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A flag of WStunnel's that is known, and why it is not taken."""

    name: str
    reason: str


def switch(name: str, help: str, **more: Any) -> Option:
    return Option(name=name, help=help, kind=kinds.boolean, default=False, **more)


COMMON = [
    Option(name="config", metavar="FILE", kind=kinds.path, in_file=False, help="read settings from a TOML file"),
    Option(
        name="backend",
        metavar="NAME",
        kind=kinds.one_of("asyncio", "trio"),
        default="asyncio",
        help="asyncio (on uvloop where that is installed) or trio",
    ),
    switch("no-uvloop", "use asyncio's own event loop though uvloop is installed"),
    Option(
        name="parser",
        metavar="NAME",
        kind=kinds.one_of("auto", "httptools", "h11"),
        default="auto",
        help="what reads HTTP heads: auto (httptools where it is installed, else h11), httptools or h11",
    ),
    Option(
        name="log-level",
        metavar="LEVEL",
        kind=kinds.one_of("debug", "info", "warning", "warn", "error"),
        default="info",
        help="debug, info, warning or error",
    ),
    Option(
        name="log-format",
        metavar="FORMAT",
        kind=kinds.one_of("text", "json"),
        default="text",
        help="text (key=value) or json",
    ),
    switch("log-pretty", "the same as --log-format text"),
    Option(name="logfile", metavar="FILE", kind=kinds.path, help="log to this file instead of standard error"),
    Option(name="syslog", metavar="FACILITY", kind=kinds.facility, help="log to syslog under this facility"),
    Option(name="pidfile", metavar="FILE", kind=kinds.path, help="write the process id to this file"),
    Option(
        name="drain-timeout",
        metavar="SECONDS",
        kind=kinds.seconds,
        default=25.0,
        help="how long running requests may take to finish after SIGTERM",
    ),
    switch("version", "print the version and end", only_argument=True),
    switch("help", "print this and end", aliases=("h",), only_argument=True),
]

SERVER: list[Option | Refused] = [
    Option(
        name="listen",
        metavar="HOST:PORT",
        kind=kinds.address,
        repeat=True,
        help="listen here; port 0 picks one; may be given several times (default: 127.0.0.1:8080)",
    ),
    Option(name="host", metavar="HOST", help="with --port, in place of --listen (default: all interfaces)"),
    Option(
        name="port", metavar="PORT", kind=kinds.port, help="in place of --listen: all interfaces, or those of --host"
    ),
    Option(name="base-path", metavar="PATH", kind=kinds.base_path, default="", help="a prefix of all paths"),
    Option(
        name="base-domain",
        metavar="DOMAIN",
        help="give clients names below it: tunnel.example.com, or localhost:8080 with the port that callers see",
    ),
    Option(
        name="public-url",
        metavar="URL",
        help="where callers come to, if not to where the server listens; clients show URLs made from it",
    ),
    Option(
        name="wsp-path",
        metavar="PATH",
        kind=kinds.base_path,
        default="/request",
        help='where callers name whole URLs in X-PROXY-DESTINATION; "" turns that off',
    ),
    Option(
        name="wsp-token",
        metavar="TOKEN",
        secret=True,
        help="the tunnel of such requests without X-Token: whoever reaches the server may use it",
    ),
    Option(
        name="wsp-register",
        metavar="PATH",
        kind=kinds.base_path,
        help="where wsp's own clients register (/register), with --secretkey, to serve the tunnel of --wsp-token",
    ),
    Option(
        name="secretkey",
        metavar="KEY",
        secret=True,
        help="the password of all tokens that have none of their own (prefer --secretkey-file)",
    ),
    Option(name="secretkey-file", metavar="FILE", kind=kinds.path, help="holds it; read again at SIGHUP"),
    Option(
        name="balance",
        metavar="NAME",
        kind=kinds.one_of("least-load", "random"),
        default="least-load",
        help="which client of a token gets the next request: that with the least load, or any",
    ),
    Option(name="tls-cert", metavar="FILE", kind=kinds.path, help="certificate chain (PEM): speak https and wss"),
    Option(name="tls-key", metavar="FILE", kind=kinds.path, help="its key (default: in the certificate's file)"),
    Option(
        name="client-ca", metavar="FILE", kind=kinds.path, help="whoever connects must have a certificate of this CA"
    ),
    Option(
        name="passwords",
        metavar="TOKEN:PASSWORD,...",
        kind=kinds.passwords,
        secret=True,
        help="passwords for registering tokens (others can see arguments: prefer --passwords-file)",
    ),
    Option(
        name="passwords-file",
        metavar="FILE",
        kind=kinds.path,
        help="the same, TOKEN:PASSWORD a line; read again at SIGHUP",
    ),
    Option(
        name="callers-file",
        metavar="FILE",
        kind=kinds.path,
        help="ask callers for Basic credentials: TOKEN:USER:PASSWORD or name:NAME:USER:PASSWORD a line; read again "
        "at SIGHUP",
    ),
    switch("no-wstunnel", "turn WStunnel's own clients away, which otherwise are served on the same port and path"),
    switch("known-tokens-only", "let nobody register a token that is not listed"),
    Option(
        name="max-requests-per-tunnel",
        metavar="N",
        kind=kinds.whole(1),
        default=20,
        help="requests that may wait for one token",
    ),
    Option(
        name="max-clients-per-token",
        metavar="N",
        kind=kinds.whole(0),
        default=0,
        help="clients that may share a token; 0: any number",
    ),
    Option(
        name="policy",
        metavar="NAME",
        kind=kinds.one_of("pool", "replace", "reject", "standby"),
        help="how several clients share a token: pool, replace, reject or standby (default: pool; reject for names)",
    ),
    Option(
        name="wstimeout",
        metavar="SECONDS",
        kind=kinds.seconds,
        help="give a silent client up after this time, 3 to 600 (default: 30)",
    ),
    Option(
        name="httptimeout",
        metavar="SECONDS",
        kind=kinds.seconds,
        help="a request's longest wait in the queue, and then for its answer's head (default: 60 each)",
    ),
    Option(
        name="queue-timeout",
        metavar="SECONDS",
        kind=kinds.seconds,
        help="a request's longest wait for a client (default: 60, or --httptimeout)",
    ),
    Option(
        name="trusted-proxy",
        metavar="ADDRESS",
        kind=kinds.network,
        repeat=True,
        help="believe X-Forwarded-* from this address or network; may be given several times",
    ),
    Option(
        name="admin-listen",
        metavar="HOST:PORT",
        kind=kinds.address,
        help="a listener of its own for detailed statistics and health",
    ),
    Option(
        name="admin-password-file",
        metavar="FILE",
        kind=kinds.path,
        help="holds the password for detailed statistics; read again at SIGHUP",
    ),
    Refused(name="robowhois", reason="the service behind it does not exist any more; leave the flag out"),
    *COMMON,
]

CLIENT: list[Option | Refused] = [
    Option(
        name="tunnel",
        metavar="URL",
        kind=kinds.tunnel_url,
        repeat=True,
        secret=True,
        help="the tunnel server: ws[s]://[user:password@]host[:port][/base], or http[s]://; give one for each server",
    ),
    Option(
        name="server",
        metavar="URL",
        kind=kinds.origin_url,
        help="the HTTP server that answers: http[s]://host[:port], or unix:/path/of/the.sock",
    ),
    Option(
        name="port",
        metavar="PORT",
        kind=kinds.whole(1, 65535),
        help="in place of --server: http://localhost:PORT",
    ),
    Option(
        name="local-host",
        metavar="HOST",
        kind=kinds.host_name,
        help="the host of --server or --port in place of the one there; every request's Host names it",
    ),
    Option(
        name="host-header",
        metavar="HOST",
        help="the Host that the HTTP server is sent: this one, or preserve for the caller's (default: its own)",
    ),
    Option(
        name="origin-wait",
        metavar="SECONDS",
        kind=kinds.patience,
        default=5.0,
        help="how long requests wait for an HTTP server that was there and starts again; 0: not at all",
    ),
    Option(
        name="token",
        metavar="TOKEN[:PASSWORD]",
        kind=kinds.token,
        secret=True,
        help="the secret that joins callers to this client (others can see arguments: prefer --token-file)",
    ),
    Option(name="token-file", metavar="FILE", kind=kinds.path, help="holds TOKEN[:PASSWORD]"),
    Option(
        name="name",
        metavar="NAME",
        help="the name by which callers reach this client, where the server gives some (default: made of TOKEN)",
    ),
    Option(
        name="password",
        metavar="PASSWORD",
        secret=True,
        help="the token's password; TUNNELKIT_PASSWORD is its best place",
    ),
    Option(
        name="secretkey",
        metavar="KEY",
        secret=True,
        help="the password that the server asks of tokens without one; TUNNELKIT_SECRETKEY is its best place",
    ),
    switch("ask-password", "ask for the password on the terminal", only_argument=True),
    Option(
        name="regexp",
        metavar="PATTERN",
        repeat=True,
        help="origins that X-Host may name: must match scheme://host[:port] whole; may be given several times",
    ),
    switch(
        "refuse-private",
        "of what --regexp allows, reach public addresses alone: none of this machine or its networks",
    ),
    Option(
        name="proxy",
        metavar="URL",
        kind=kinds.proxy_url,
        secret=True,
        help="the way out: http[s]://, socks4:// or socks5://, with user:password@ if it wants them",
    ),
    Option(
        name="cafile",
        metavar="FILE",
        kind=kinds.path,
        aliases=("certfile",),
        help="trust this CA too (PEM), for the tunnel server and for origins",
    ),
    switch("insecure", "verify no certificate, neither the tunnel server's nor an origin's"),
    Option(name="origin-cafile", metavar="FILE", kind=kinds.path, help="trust this CA too, for origins alone"),
    switch("origin-insecure", "verify no certificate of an origin"),
    Option(
        name="client-cert",
        metavar="FILE",
        kind=kinds.path,
        help="show this certificate to the tunnel server (PEM, key too)",
    ),
    Option(
        name="client-ports",
        metavar="PORTS",
        kind=kinds.ports,
        help="local ports to dial from, tried in order: 8000..8100,8500",
    ),
    Option(
        name="timeout",
        metavar="SECONDS",
        kind=kinds.seconds,
        help="give a silent server up after this time, 3 to 600 (default: 30)",
    ),
    Option(
        name="transport",
        metavar="NAME",
        default="auto",
        help="auto (websocket, else long-poll), websocket or longpoll; wstunnel or wsp for a server of theirs",
    ),
    Option(
        name="poolidlesize",
        metavar="N",
        kind=kinds.whole(1, 1000),
        default=10,
        help="connections that wait for requests at a wsp server",
    ),
    Option(
        name="poolmaxsize",
        metavar="N",
        kind=kinds.whole(1, 1000),
        default=100,
        help="connections to a wsp server in all, of which each carries one request at a time",
    ),
    switch(
        "allow-legacy",
        "let auto register with a WStunnel server too, if it answers exactly as those do; ws:// shows them the token "
        "in the clear",
    ),
    Option(
        name="statusfile",
        metavar="FILE",
        kind=kinds.path,
        help="write the time to this file as long as the tunnel is up",
    ),
    switch("print-requests", "print a line for each request when it is over"),
    Option(
        name="inspect",
        metavar="HOST:PORT",
        help="show requests on a page of this machine's own, as at 127.0.0.1:4040, to look at and to replay",
    ),
    switch("plain", "print lines though standard output is a terminal, and no live view (which needs rich)"),
    switch("check-origin", "ask the origin once at start, and warn if it does not answer"),
    *COMMON,
]

# The tables that a configuration file may hold: the server's [[token]], each a token that may register, and the
# client's [[tunnel]], each a tunnel, over what stands at the top of the file.
TOKEN: list[Option] = [
    Option(name="token", metavar="TOKEN[:PASSWORD]", kind=kinds.token, secret=True, help="a token that may register"),
    Option(name="password", metavar="PASSWORD", secret=True, help="its password"),
    Option(name="name", metavar="NAME", help="a name below --base-domain that belongs to it alone"),
    Option(
        name="policy",
        metavar="NAME",
        kind=kinds.one_of("pool", "replace", "reject", "standby"),
        help="how its clients share it: pool, replace, reject or standby",
    ),
    Option(
        name="callers",
        metavar="USER:PASSWORD",
        kind=kinds.caller,
        repeat=True,
        secret=True,
        help="whom its callers must be, by Basic credentials; a list",
    ),
]
# Both ends' [[blacklist]] and [[whitelist]].
RULE: list[Option] = [
    Option(name="method", metavar="PATTERN", help="must match the method, whole"),
    Option(name="url", metavar="PATTERN", help="must match scheme://host[:port]/path?query, whole"),
    Option(
        name="headers",
        metavar="'NAME: PATTERN'",
        kind=kinds.header_pattern,
        repeat=True,
        help="each must match its field, whole; a field that is missing counts as empty",
    ),
]
RULES = {"blacklist": RULE, "whitelist": RULE}
_OF_THE_PROCESS = {option.name for option in COMMON} | {"plain"}
TUNNEL: list[Option] = [
    option
    for option in CLIENT
    if isinstance(option, Option) and option.name not in _OF_THE_PROCESS and not option.only_argument
]

# What the programs read of the environment beside TUNNELKIT_<FLAG>.
VARIABLES = {
    "WSTUNNEL_PASSWORD": "the client's password for its token, where nothing else gives one",
    "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY": "the way out, where --proxy says nothing; in lower case too",
    "NO_PROXY": "hosts that are reached without it",
    "NO_COLOR": "the client's view on a terminal has no colours",
    "TERM": "there is no such view where it is empty or dumb",
    "NOTIFY_SOCKET": "systemd's: it is told of start, reload and end",
    "CREDENTIALS_DIRECTORY": "systemd's: files there are nobody else's, whatever their mode says",
}
