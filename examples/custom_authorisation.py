"""The server's program decides who may register, by a directory of devices that may change while it runs.

``authorise`` is asked at each registration and each resume, and may await what it likes: a database, a service. Here
it is a dictionary, and both ends run in one program: ``python custom_authorisation.py``.
"""

import hashlib
import sys
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address

import anyio
from anyio.abc import TaskStatus

from tunnelkit import (
    Granted,
    Refusal,
    Registration,
    RegistrationRefused,
    Request,
    Response,
    TunnelClient,
    TunnelServer,
    mask_token,
)


def digest(token: str) -> str:
    """What the directory holds in place of the secret: who reads it can neither call nor register."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass
class Directory:
    """Devices by the digests of their tokens, with the networks that each may come from."""

    devices: dict[str, IPv4Network]

    async def authorise(self, registration: Registration) -> Granted | Refusal:
        network = self.devices.get(digest(registration.token))
        if network is None:
            return Refusal(status=403, code="forbidden", detail="no such device")  # ends the client
        if ip_address(registration.address) not in network:
            # A code of one's own: the client goes on trying, from wherever it will be.
            return Refusal(status=403, code="wrong_network", detail="not from there", retry_after=60)
        return Granted(policy="replace")  # a device that starts again takes the place of its last life

    def withdraw(self, token: str, server: TunnelServer) -> None:
        """From now on it is refused; its session, which was granted, is ended."""
        del self.devices[digest(token)]
        for session in server.sessions():
            if session.masked == mask_token(token):
                session.close()


async def device(request: Request) -> Response:
    return Response(body="21.5 degrees\n")


async def run_device(url: str, token: str, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
    """The device's side, until the server refuses it for good."""
    try:
        async with TunnelClient(url, token=token, origin=device) as client:
            await client.wait_ready(timeout=10)
            print(mask_token(token), "is connected")
            task_status.started()
            await anyio.sleep_forever()
    except RegistrationRefused as refusal:
        print(mask_token(token), "was refused:", refusal.code)


async def main() -> None:
    known, unknown = "therm-07-TTwaIOoZ4i", "therm-08-U1nYqRb2x9"
    directory = Directory({digest(known): IPv4Network("127.0.0.0/8")})
    async with TunnelServer("127.0.0.1:0", authorise=directory.authorise) as server:
        await run_device(server.url, unknown)
        async with anyio.create_task_group() as tasks:
            await tasks.start(run_device, server.url, known)
            directory.withdraw(known, server)  # its client comes again, and is refused


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
