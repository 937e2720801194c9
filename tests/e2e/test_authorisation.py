"""The operator's own word on who may register (design, section 8; ``tunnelkit.registration``)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from tunnelkit import ClientCertificate, ConfigError, Granted, Refusal, Registration, RegistrationRefused, TlsFiles
from tunnelkit.events import Retrying
from tunnelkit.testing.relay import serve_relay

from .tunnel import SHORT, TOKEN, Ends, open_ends, until

pytestmark = pytest.mark.anyio

OTHER_TOKEN = "another-token-for-the-tests"
FORBIDDEN = Refusal(status=403, code="forbidden", detail="not in the directory")


async def refusal(ends: Ends, **options: Any) -> RegistrationRefused:
    with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(10):
        async with ends.join(ready=False, **options):
            await anyio.sleep_forever()
    return caught.value


async def test_the_hook_sees_the_registration() -> None:
    seen: list[Registration] = []

    async def authorise(registration: Registration) -> Granted:
        seen.append(registration)
        return Granted()

    async with open_ends(authorise=authorise) as ends, ends.join(instance="one"):
        first = seen[0]
        assert (first.token, first.address, first.instance) == (TOKEN, "127.0.0.1", "one")
        assert (first.name, first.certificate, first.resumes) == (None, None, False)
        assert first.client_version.startswith("tunnelkit/")
        assert TOKEN not in repr(first)


async def test_the_hook_sees_the_clients_certificate(
    tls_files: dict[str, Path], certificate_authority: trustme.CA, tmp_path: Path
) -> None:
    seen: list[Registration] = []

    async def authorise(registration: Registration) -> Granted:
        seen.append(registration)
        return Granted()

    tls = TlsFiles(cert=tls_files["cert"], key=tls_files["key"], client_ca=tls_files["ca"])
    path = tmp_path / "mine.pem"
    certificate_authority.issue_cert("device-7.test").private_key_and_cert_chain_pem.write_to_path(path)
    async with open_ends(tls=tls, authorise=authorise) as ends:
        url = f"wss://localhost:{ends.port}"
        mine = ClientCertificate(cert=path)
        async with ends.join(url=url, cafile=tls_files["ca"], client_certificate=mine):
            assert seen[0].certificate is not None
            assert ("DNS", "device-7.test") in seen[0].certificate["subjectAltName"]  # type: ignore[operator]


async def test_the_hook_refuses() -> None:
    async def authorise(registration: Registration) -> Granted | Refusal:
        return Granted() if registration.token == TOKEN else FORBIDDEN

    async with open_ends(authorise=authorise) as ends, ends.join():
        error = await refusal(ends, token=OTHER_TOKEN)
        assert (error.status, error.code, error.detail) == (403, "forbidden", "not in the directory")
        assert (await ends.get("/echo"))[0] == 200


async def test_what_the_hook_grants_is_what_the_token_has() -> None:
    async def authorise(registration: Registration) -> Granted:
        return Granted(policy="reject")

    async with open_ends(authorise=authorise) as ends, ends.join(), ends.join(ready=False) as second:
        async for event in second.events():
            if isinstance(event, Retrying):
                assert "too_many_clients" in event.reason
                break


async def test_a_name_that_the_hook_grants_is_the_clients() -> None:
    async def authorise(registration: Registration) -> Granted:
        assert registration.name == "wanted"
        return Granted(name="given")

    async with open_ends(authorise=authorise, base_domain="tunnel.test") as ends, ends.join(name="wanted") as client:
        assert client.url.startswith("http://given.tunnel.test:")
        assert [session.name for session in ends.server.sessions()] == ["given"]


async def test_a_slow_hook_holds_up_nobody_else() -> None:
    asked, let_in = anyio.Event(), anyio.Event()

    async def authorise(registration: Registration) -> Granted:
        if registration.token == OTHER_TOKEN:
            asked.set()
            await let_in.wait()
        return Granted()

    async with (
        open_ends(authorise=authorise) as ends,
        ends.join(),
        ends.join(token=OTHER_TOKEN, ready=False) as client,
    ):
        await asked.wait()
        assert (await ends.get("/echo"))[0] == 200
        let_in.set()
        await client.wait_ready(10)


async def test_the_hook_is_cancelled_when_the_connection_goes() -> None:
    asked, cancelled = anyio.Event(), anyio.Event()

    async def authorise(registration: Registration) -> Granted:
        asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return Granted()

    async with open_ends(authorise=authorise) as ends:
        async with ends.join(ready=False):
            with anyio.fail_after(10):
                await asked.wait()
        with anyio.fail_after(10):
            await cancelled.wait()


@pytest.mark.parametrize(
    "answer",
    [
        "an exception",
        None,
        Refusal(status=200, code="forbidden", detail="it is not"),
        Refusal(status=403, code="not a word", detail="it is not"),
        Refusal(status=503, code="later", detail="later", retry_after=-1.0),
    ],
)
async def test_a_hook_that_fails_is_a_503_and_a_log_line(
    answer: str | Refusal | None, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([True, False])

    async def authorise(registration: Registration) -> Granted:
        if not next(failures):
            return Granted()
        if answer == "an exception":
            raise RuntimeError("the directory is down")
        return answer  # type: ignore[return-value]

    with caplog.at_level(logging.INFO, "tunnelkit"):
        async with open_ends(authorise=authorise) as ends, ends.join():
            assert (await ends.get("/echo"))[0] == 200
    failed = next(record for record in caplog.records if "authorisation hook failed" in record.getMessage())
    assert failed.exc_info is not None
    assert TOKEN not in caplog.text
    assert "status 503, code authorisation_failed" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio lets nobody raise Cancelled
async def test_a_cancelled_task_of_the_hooks_own_is_a_failure_too(caplog: pytest.LogCaptureFixture) -> None:
    failures = iter([True, False])

    async def authorise(registration: Registration) -> Granted:
        if next(failures):
            look_up = asyncio.get_running_loop().create_future()
            look_up.cancel()
            await look_up
        return Granted()

    async with open_ends(authorise=authorise) as ends, ends.join():
        assert "authorisation hook failed" in caplog.text
        assert (await ends.get("/echo"))[0] == 200


@pytest.mark.ways("websocket", "streamed")  # where a cut is a loss
async def test_a_resume_asks_the_hook_again_and_its_refusal_ends_the_session() -> None:
    asked: list[bool] = []

    async def authorise(registration: Registration) -> Granted | Refusal:
        asked.append(registration.resumes)
        return FORBIDDEN if registration.resumes else Granted()

    async with open_ends(authorise=authorise, limits=SHORT) as ends, serve_relay(ends.port) as relay:

        async def serve() -> None:
            async with ends.join(via=relay):
                relay.cut()
                await anyio.sleep_forever()

        with pytest.raises(RegistrationRefused) as caught, anyio.fail_after(10):
            await serve()
        assert caught.value.detail == "not in the directory"
        assert asked == [False, True]
        await until(lambda: not ends.server.sessions(), timeout=SHORT.grace / 2)


def test_only_a_known_policy_and_a_name_that_can_be_are_granted() -> None:
    with pytest.raises(ConfigError, match=r"^policy: 'first' is unknown"):
        Granted(policy="first")
    with pytest.raises(ConfigError, match=r"^name: may hold letters"):
        Granted(name="no name")
