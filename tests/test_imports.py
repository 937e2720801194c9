"""The house of floors (docs/design.md): the tables here are the law, and every import in the package keeps it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import tunnelkit

PACKAGE = Path(tunnelkit.__file__).parent
MAX_LINES = 500

# The floors, lowest first. A module's floor is the first part of its name below the package. It may import what is
# listed for its floor, and its own floor; a floor that is not listed is out of reach.
LEAVES = ("", "errors", "config", "field_names", "heads", "problem", "proof", "forwarding", "handshake")
BELOW_THE_RUNTIME = (*LEAVES, "core", "logs", "net", "http", "transports")
FLOORS: dict[str, tuple[str, ...]] = {
    "": (),
    "errors": (),
    "config": ("errors",),
    "field_names": (),
    "heads": ("errors", "config", "field_names"),
    "problem": ("heads",),
    "proof": (),
    "forwarding": ("errors", "config", "field_names", "heads"),
    "handshake": ("errors", "config", "heads", "problem"),
    "core": LEAVES,
    "logs": LEAVES,
    "stats": (*LEAVES, "logs"),
    "net": LEAVES,
    "http": (*LEAVES, "net"),
    "transports": (*LEAVES, "net", "http"),
    # -- the runtime: what both ends share, then the server's side, then the client's, which never meet --
    "accelerators": BELOW_THE_RUNTIME,
    "event_stream": (),
    "request_events": ("event_stream",),
    "middleware": BELOW_THE_RUNTIME,
    "server_middleware": (*BELOW_THE_RUNTIME, "middleware"),
    "redaction": ("heads",),
    "inspector": (*BELOW_THE_RUNTIME, "redaction"),
    "inspector_page": (*BELOW_THE_RUNTIME, "inspector"),
    "tunnel_stream": BELOW_THE_RUNTIME,
    "link_run": BELOW_THE_RUNTIME,
    "link_streams": (*BELOW_THE_RUNTIME, "tunnel_stream"),
    "link": (*BELOW_THE_RUNTIME, "link_run", "link_streams", "tunnel_stream"),
    "lifetime": (),
    "splice": (*BELOW_THE_RUNTIME, "tunnel_stream"),
    "regexp_engine": BELOW_THE_RUNTIME,
    "registration": BELOW_THE_RUNTIME,
    "admission": (*BELOW_THE_RUNTIME, "registration"),
    "server_session": (*BELOW_THE_RUNTIME, "link", "registration"),
    "granted_offer": (*BELOW_THE_RUNTIME, "link", "server_session"),
    "public_names": BELOW_THE_RUNTIME,
    "server_events": (*BELOW_THE_RUNTIME, "event_stream", "request_events", "server_session"),
    "sessions": (
        *BELOW_THE_RUNTIME,
        *("event_stream", "server_events"),
        *("link", "registration", "admission", "server_session", "granted_offer", "public_names"),
    ),
    "names": (),
    "caller_check": BELOW_THE_RUNTIME,
    "gateway": (
        *BELOW_THE_RUNTIME,
        "tunnel_stream",
        "splice",
        "server_session",
        "caller_check",
        "event_stream",
        "request_events",
    ),
    "admin_access": BELOW_THE_RUNTIME,
    "session_page": (*BELOW_THE_RUNTIME, "server_session", "gateway", "admin_access"),
    "pages": (*BELOW_THE_RUNTIME, "stats", "server_session", "gateway", "admin_access", "session_page"),
    "dispatch": (*BELOW_THE_RUNTIME, "gateway", "pages", "server_middleware"),
    "mount": (*BELOW_THE_RUNTIME, "pages"),
    "inside": BELOW_THE_RUNTIME,
    "server_inspection": (*BELOW_THE_RUNTIME, "inspector", "inside", "server_middleware"),
    "serving": (
        *BELOW_THE_RUNTIME,
        *("admission", "server_session", "public_names", "sessions", "names", "caller_check", "gateway", "pages"),
        *("dispatch", "event_stream", "middleware", "server_middleware", "inspector", "server_inspection"),
    ),
    "server": (
        *BELOW_THE_RUNTIME,
        *("lifetime", "registration", "admission", "server_session", "public_names", "caller_check", "stats"),
        *(
            "regexp_engine",
            "serving",
            "mount",
            "inside",
            "event_stream",
            "server_events",
            "middleware",
            "inspector",
            "server_inspection",
        ),
    ),
    "events": (*BELOW_THE_RUNTIME, "event_stream", "request_events"),
    "origins": (*BELOW_THE_RUNTIME, "lifetime"),
    "guarded_tasks": (),
    "client_middleware": (*BELOW_THE_RUNTIME, "middleware", "origins"),
    "client_inspection": (*BELOW_THE_RUNTIME, "inspector", "origins"),
    "client_session": (*BELOW_THE_RUNTIME, "link"),
    "attaching": (*BELOW_THE_RUNTIME, "link"),
    "dialling": (*BELOW_THE_RUNTIME, "client_session"),
    "moves": (*BELOW_THE_RUNTIME, "client_session", "attaching", "dialling"),
    "supervisor": (
        *BELOW_THE_RUNTIME,
        *(
            "tunnel_stream",
            "link",
            "event_stream",
            "events",
            "guarded_tasks",
            "client_session",
            "attaching",
            "dialling",
            "moves",
        ),
    ),
    "agent": (*BELOW_THE_RUNTIME, "tunnel_stream", "splice", "event_stream", "request_events", "events", "origins"),
    "client": (
        *BELOW_THE_RUNTIME,
        "lifetime",
        "event_stream",
        "middleware",
        "client_middleware",
        "client_inspection",
        "inspector",
        "events",
        "origins",
        "supervisor",
        "agent",
        "regexp_engine",
    ),
}
# Modules that are one floor together.
WINGS = {
    "agent_events": "agent",
    "agent_exchange": "agent",
    "agent_workers": "agent",
    "gateway_exchange": "gateway",
    "gateway_request": "gateway",
    "har": "inspector",
}

SERVER_SIDE = {
    *(
        "registration",
        "admission",
        "server_session",
        "granted_offer",
        "caller_check",
        "admin_access",
        "session_page",
        "public_names",
        "server_events",
        "server_middleware",
        "server_inspection",
        "sessions",
        "names",
        "gateway",
        "stats",
        "pages",
        "dispatch",
        "serving",
    ),
    "server",
    "mount",
    "inside",
}
CLIENT_SIDE = {
    *("events", "origins", "client_session", "attaching", "dialling", "moves", "supervisor", "agent", "client"),
    "client_middleware",
    "client_inspection",
}
RUNTIME = (
    SERVER_SIDE
    | CLIENT_SIDE
    | {"event_stream", "inspector", "inspector_page", "lifetime", "guarded_tasks", "link", "link_run", "splice"}
    | {"link_streams", "tunnel_stream"}
)

# The package's face, the tools for its users' tests, and the transports for peers of other makes, which have a whole
# end of a tunnel inside, may import everything; nothing lies above them.
TOPS = {"__init__", "testing", "legacy"}

# Neighbours that must not know each other, spelled out so that the table cannot be loosened by mistake.
STRANGERS = [
    *[("core", "transports"), ("transports", "core"), ("http", "transports"), ("net", "transports"), ("net", "http")],
    *[(one, other) for one in SERVER_SIDE for other in CLIENT_SIDE],
    *[(one, other) for one in CLIENT_SIDE for other in SERVER_SIDE],
]

# The core knows no clock, no random source, no I/O, no logging: time and ids come in as arguments.
CORE_FORBIDDEN = {
    *("anyio", "asyncio", "concurrent", "contextvars", "io", "logging", "multiprocessing", "os", "pathlib", "random"),
    *(
        "sched",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "threading",
        "time",
        "trio",
    ),
    *("urllib", "uuid", "datetime", "tempfile", "warnings"),
}
CORE_MAY = {"urllib.parse"}

# Third parties and runtimes, and the floors that may know them.
KNOWERS: dict[str, tuple[str, ...]] = {
    "anyio": ("net", "http", "transports", *RUNTIME, "testing", "legacy"),
    "asyncio": ("net",),
    "trio": ("net",),
    "h11": ("http", "net", "transports", "testing"),
    "httpcore": ("inside",),
    "httptools": ("http",),
    "httpx": ("inside",),
    "pytest": ("testing",),
    "python_socks": ("net",),
    "sniffio": ("net",),
    "websockets": ("transports",),
    "wsproto": ("http", "transports", "legacy"),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """The module's name below the package: ``core.session``, ``core`` for its ``__init__``, ``__init__`` itself."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def floor(name: str) -> str:
    top = name.split(".")[0]
    return WINGS.get(top, top)


def resolve(path: Path, node: ast.ImportFrom) -> str:
    """The absolute name of the module that a ``from`` import names."""
    if not node.level:
        return node.module or ""
    package = ["tunnelkit", *path.relative_to(PACKAGE).parent.parts]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Every import of a module with its line, inside functions and TYPE_CHECKING too."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = resolve(path, node)
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def inner(name: str) -> str | None:
    """The floor that an import of our own reaches, or None for one of others."""
    parts = name.split(".")
    if parts[0] != "tunnelkit":
        return None
    below = parts[1:]
    if below and ((PACKAGE / below[0]).is_dir() or (PACKAGE / f"{below[0]}.py").exists()):
        return floor(below[0])
    return ""  # the package's own names, such as __version__


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_run_downwards(path: Path) -> None:
    name = floor(dotted(path))
    if name in TOPS:
        return
    assert name in FLOORS, f"{name} has no floor yet: give it one in the table"
    for line, imported in imports(path):
        reached = inner(imported)
        if reached is not None and reached != name:
            assert reached in FLOORS[name], f"{path.name}:{line} imports {imported}, which does not lie below {name}"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_third_parties_are_known_to_few(path: Path) -> None:
    name = floor(dotted(path))
    for line, imported in imports(path):
        top = imported.split(".")[0]
        if top == "tunnelkit" or top == "__future__":
            continue
        if top in KNOWERS:
            assert name in KNOWERS[top], f"{path.name}:{line} imports {top}, which {name} must not know"
        else:
            assert top in sys.stdlib_module_names, f"{path.name}:{line} imports {top}: no dependency of tunnelkit"


@pytest.mark.parametrize("path", [p for p in modules() if floor(dotted(p)) in ("core", *LEAVES[1:])], ids=dotted)
def test_the_core_and_the_leaves_are_sans_io(path: Path) -> None:
    for line, imported in imports(path):
        if not any(imported == name or imported.startswith(f"{name}.") for name in CORE_MAY):
            assert imported.split(".")[0] not in CORE_FORBIDDEN, f"{path.name}:{line} imports {imported}"


def test_the_table_itself_goes_downwards() -> None:
    order = list(FLOORS)
    for name, below in FLOORS.items():
        for other in below:
            assert order.index(other) <= order.index(name), f"{name} -> {other} goes upwards"
    for upper, stranger in STRANGERS:
        assert stranger not in FLOORS[upper]


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_modules_are_small_and_say_what_they_offer(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    tree = ast.parse(text)
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    assigned = {target.id for target in targets if isinstance(target, ast.Name)}
    only_a_docstring = all(isinstance(node, ast.Expr) for node in tree.body)
    assert only_a_docstring or "__all__" in assigned, f"{dotted(path)} has no __all__"


def test_every_name_in_all_exists() -> None:
    for path in modules():
        name = dotted(path)
        if name == "http.httptools_codec" and importlib.util.find_spec("httptools") is None:
            continue  # of the extra `speed`
        module = importlib.import_module("tunnelkit" if name == "__init__" else f"tunnelkit.{name}")
        for public in getattr(module, "__all__", ()):
            assert hasattr(module, public), f"{name}.__all__ names {public}, which is not there"
