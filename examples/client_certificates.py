"""TLS with certificates of both ends: who shows none of this CA gets no further than the handshake, callers included.

    python client_certificates.py FOLDER

runs both ends, a caller who has a certificate and one who has none. The folder is made by openssl:

    openssl req -x509 -newkey ed25519 -noenc -days 3650 -subj /CN=our-own-ca -keyout ca.key -out ca.pem
    issue() {
        openssl req -newkey ed25519 -noenc -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
        openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -days 365 -extfile <(echo "subjectAltName=$2") \
            -out "$1.crt"
        cat "$1.crt" "$1.key" > "$1.pem"
    }
    issue server DNS:localhost,IP:127.0.0.1
    issue device DNS:device-7.example
    issue caller DNS:caller-1.example
"""

import ssl
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx

from tunnelkit import (
    ClientCertificate,
    Granted,
    Refusal,
    Registration,
    Request,
    Response,
    TlsFiles,
    TunnelClient,
    TunnelServer,
)

TOKEN = "a-secret-of-16-letters"


async def authorise(registration: Registration) -> Granted | Refusal:
    """A certificate alone would let callers register, too: its name says what its owner may."""
    names: Any = (registration.certificate or {}).get("subjectAltName", ())  # as of ssl.SSLSocket.getpeercert
    if ("DNS", "device-7.example") in names:
        return Granted()
    return Refusal(status=403, code="forbidden", detail="this certificate is no device's")


async def device(request: Request) -> Response:
    return Response(body="21.5 degrees\n")


async def get(url: str, context: ssl.SSLContext) -> str:
    async with httpx.AsyncClient(verify=context) as caller:
        try:
            return (await caller.get(url)).text
        except (httpx.TransportError, ssl.SSLError):  # the latter on trio
            return "no way in\n"


async def main(folder: Path) -> None:
    ca = folder / "ca.pem"
    tls = TlsFiles(cert=folder / "server.pem", client_ca=ca)  # read again by server.reload()
    mine = ClientCertificate(cert=folder / "device.pem")
    async with (
        TunnelServer("127.0.0.1:0", tls=tls, authorise=authorise) as server,
        TunnelClient(server.url, token=TOKEN, origin=device, cafile=ca, client_certificate=mine) as client,
    ):
        await client.wait_ready(timeout=10)
        context = ssl.create_default_context(cafile=ca)
        print("without a certificate:", await get(client.url, context), end="")
        context.load_cert_chain(folder / "caller.pem")
        print("with one:", await get(client.url, context), end="")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), backend=sys.argv[2] if len(sys.argv) > 2 else "asyncio")
