"""What every test stands on: both backends, settled hypothesis profiles, a quiet environment, certificates."""

from __future__ import annotations

import gc
import os
import ssl
import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from importlib import import_module
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, settings

from .hangs import end_process_after, ended_after
from .inlined import refuse_vain_patches

ROOT = Path(__file__).resolve().parent.parent

# `fast` is the same on every run, so that a red build is the change's own doing; `deep` looks for new examples.
# Neither has a deadline: a shared machine pauses when it likes.
settings.register_profile(
    "fast",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", deadline=None, max_examples=3000, suppress_health_check=[HealthCheck.too_slow])
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "fast")
settings.load_profile(PROFILE)
# Of a test that looks for examples as `deep` does, and of the full sizes, in place of the time limit of all others.
DEEP_TIMEOUT = 1800
FULL_TIMEOUT = 240

BACKENDS = os.environ.get("TUNNELKIT_TEST_BACKENDS", "asyncio,trio").split(",")
# Which half of the paired cases (below): "first" is `make test`'s, "second" is `make ways`'; "whole" is both,
# and what is meant where somebody names a backend, or ways.
_NAMED = {"TUNNELKIT_TEST_BACKENDS", "TUNNELKIT_TEST_WAYS"} & set(os.environ)
HALF = os.environ.get("TUNNELKIT_TEST_HALF", "whole" if _NAMED else "first")
USE_UVLOOP = os.environ.get("TUNNELKIT_TEST_UVLOOP") == "1"
# Of the tests, and the programs that they run, that choose no parser of heads. With h11, nothing finds httptools.
PARSER = os.environ.get("TUNNELKIT_TEST_PARSER", "auto")
if PARSER == "h11":
    sys.modules["httptools"] = None  # type: ignore[assignment]
elif PARSER == "httptools":
    import httptools  # noqa: F401 - an ImportError here is the failure that is wanted

# `make compiled` runs on modules that mypyc compiled (hatch_build.py): nothing in them can be replaced.
COMPILED = Path(str(import_module("tunnelkit.core.session").__file__)).suffix != ".py"

# Of a test's time limit, after which its event loop ends it. The rest is for fixtures and the tidying up.
HANG_SHARE = 0.8

# Markers of tests that take minutes.
ONLY_ASKED_FOR = ("full", "faults")

# A proxy of the machine that runs the tests must not carry what they send to themselves.
_PROXY_VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")


# Where each case says much the same on either backend, and all of them together take minutes.
PAIRED = ("tests/e2e/", "tests/legacy/", "tests/runtime/", "tests/testing/", "tests/transports/")
# What takes seconds a case, for the programs that it starts: wholly in the second half.
LATER = (
    "tests/e2e/test_memory.py",
    "tests/examples/test_mistakes.py",
    "tests/examples/test_programs.py",
    "tests/faults/",
)

# Files that wait long, and come late in the order of names: begun first, they are not what is waited for at the end.
BEGUN_FIRST = ("tests/testing/test_longpoll.py", "tests/e2e/test_cuts.py", "tests/testing/test_websocket.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """In a fresh checkout every file is compiled, with its asserts rewritten, which takes longer than all else of
    collecting. Each worker begins with other files, and finds the rest compiled."""
    gc.disable()  # nothing that is collected can go
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    files = sorted(path for folder in session.config.args for path in (ROOT / folder).glob("**/test_*.py"))
    begin = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for path in files[begin:] + files[:begin]:
        # What goes wrong, or is to be skipped, is told when the file is collected.
        with suppress(Exception, pytest.skip.Exception):
            import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """What was collected stays to the end, and is nothing to look through again and again."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)  # after hypothesis has marked its tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``-m``, full sizes and faults are left out: they take minutes. So does `deep`, which gets them. And of
    paired cases there is one half."""
    if PROFILE == "deep":
        for item in items:
            if item.get_closest_marker("hypothesis"):
                item.add_marker(pytest.mark.timeout(DEEP_TIMEOUT))
    if COMPILED:
        refuse_vain_patches()
        for item in items:
            if item.get_closest_marker("interpreted"):
                item.add_marker(pytest.mark.skip(reason="it replaces parts of modules that are compiled here"))
    for item in items:
        if item.get_closest_marker("full") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT))
    items.sort(key=lambda item: not item.nodeid.startswith(BEGUN_FIRST))
    if config.option.markexpr:
        return
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        long = any(item.get_closest_marker(name) for name in ONLY_ASKED_FOR)
        (left if long or HALF not in ("whole", half_of(item)) else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def half_of(item: pytest.Item) -> str:
    """What is paired is slow, and says much the same on either backend: tests that start programs, those that run
    over several ways, and whole folders. Each case meets one backend in the first half and the other one in the
    second, but for what is left to the second on both. Which one comes first differs from test to test, and from
    module to module where they share programs."""
    if item.nodeid.startswith(LATER):
        return "second"
    pair = item.get_closest_marker("pair")
    programs = item.get_closest_marker("programs")
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if "anyio_backend" not in params or not (pair or programs or item.nodeid.startswith(PAIRED)):
        return "first"
    name = item.path.name if programs else item.name.partition("[")[0]
    turn = zlib.crc32(name.encode()) + (params["anyio_backend"] == "trio") + (pair.args[0] if pair else 0)
    return "second" if turn % 2 else "first"


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A test that hangs in its event loop fails by itself, before pytest-timeout ends the process."""
    limit = _time_limit(pyfuncitem)
    if limit and iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = ended_after(limit * HANG_SHARE, pyfuncitem.obj)
    return (yield)


def _time_limit(item: pytest.Item) -> float:
    """In seconds; 0 for none."""
    marker = item.get_closest_marker("timeout")
    asked = item.config.getoption("timeout")
    return float(marker.args[0] if marker else item.config.getini("timeout") if asked is None else asked)


def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> bool:
    """pytest-timeout's clock, which runs from a test's first fixture to the end of its last."""
    item.cancel_timeout = end_process_after(_time_limit(item), item)  # type: ignore[attr-defined]  # it calls this
    return True


@pytest.hookimpl(trylast=True)  # after a debugger
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """pytest-timeout stops its clock for good when a test fails, in case somebody debugs it. But the task that failed
    may have left the loop in a state in which a fixture's end hangs."""
    if isinstance(node, pytest.Item) and _time_limit(node):
        node.config.hook.pytest_timeout_set_timer(item=node, settings=None)


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The backends a runtime test runs on. anyio's own fixture skips trio where it is missing; this one fails."""
    if request.param == "asyncio":
        return "asyncio", {"use_uvloop": USE_UVLOOP, "debug": False}
    if request.param == "trio":
        import trio  # noqa: F401 - an ImportError here is the failure that is wanted

        return "trio", {}
    raise ValueError(f"TUNNELKIT_TEST_BACKENDS names {request.param!r}: give asyncio, trio or both")


@pytest.fixture(scope="session", autouse=True)
def _quiet_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in _PROXY_VARIABLES:
            patch.delenv(name, raising=False)
            patch.delenv(name.lower(), raising=False)
        for name in list(os.environ):
            if name.startswith(("TUNNELKIT_", "WSTUNNEL_")) and not name.startswith("TUNNELKIT_TEST_"):
                patch.delenv(name)
        patch.setenv("TUNNELKIT_PARSER", PARSER)
        yield


# -- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_certificate(certificate_authority: trustme.CA) -> trustme.LeafCert:
    """For localhost, 127.0.0.1 and ::1."""
    return certificate_authority.issue_cert("localhost", "127.0.0.1", "::1")


@pytest.fixture(scope="session")
def tls_files(
    tmp_path_factory: pytest.TempPathFactory,
    certificate_authority: trustme.CA,
    server_certificate: trustme.LeafCert,
) -> dict[str, Path]:
    """Paths of PEM files: ``ca``, ``cert`` (the chain), ``key``, and ``client`` (a client's chain and key in one)."""
    folder = tmp_path_factory.mktemp("tls")
    files = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key", "client")}
    certificate_authority.cert_pem.write_to_path(files["ca"])
    server_certificate.private_key_pem.write_to_path(files["key"])
    for blob in server_certificate.cert_chain_pems:
        blob.write_to_path(files["cert"], append=True)
    client = certificate_authority.issue_cert("client@example.org")
    client.private_key_and_cert_chain_pem.write_to_path(files["client"])
    for path in files.values():
        path.chmod(0o600)
    return files


@pytest.fixture(scope="session")
def server_ssl_context(server_certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate.configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_ssl_context(certificate_authority: trustme.CA) -> ssl.SSLContext:
    """Verifies, and trusts the tests' own authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificate_authority.configure_trust(context)
    return context
