"""A server's own program calls a device behind a firewall with httpx: no port of the device, no token in a URL.

The device's side would be another machine; here both run in one program: ``python call_a_device.py``.
"""

import sys

import anyio
import httpx

from tunnelkit import Request, Response, TunnelClient, TunnelServer

TOKEN = "a-secret-of-16-letters"


async def device(request: Request) -> Response:
    """What answers at the device: here a function, more often a URL."""
    if request.method == "PUT":
        return Response(200, body=f"took {len(await request.read())} bytes of firmware\n")
    return Response(200, [("Content-Type", "text/plain")], "21.5 degrees\n")


async def call(server: TunnelServer) -> None:
    """Requests go to the client of the token, whatever host the URL names; bodies stream both ways."""
    async with httpx.AsyncClient(transport=server.httpx_transport(TOKEN), base_url="http://device") as client:
        print((await client.get("/temperature")).text, end="")
        answer = await client.put("/firmware", content=b"x" * 1_000_000)
        print(answer.text, end="")


async def main() -> None:
    async with TunnelServer(listen="127.0.0.1:0") as server:
        async with TunnelClient(server.url, token=TOKEN, origin=device) as client:
            await client.wait_ready(timeout=10)
            await call(server)
        # Without its client, a request waits for it for a while (Prefer: wait), and is then answered by the server.
        async with httpx.AsyncClient(transport=server.httpx_transport(TOKEN)) as late:
            answer = await late.get("http://device/temperature", headers={"Prefer": "wait=0"})
            print(answer.status_code, answer.headers["Proxy-Status"])


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
