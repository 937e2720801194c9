"""Both ends of a tunnel, an origin and a caller in one program, on asyncio or trio.

``python embedded.py``, or ``python embedded.py trio``.
"""

import http.client
import http.server
import sys
import threading
from contextlib import closing
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from tunnelkit import TunnelClient, TunnelServer


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from behind the firewall\n")


def get(url: str) -> str:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=10)) as caller:
        caller.request("GET", parts.path)
        return caller.getresponse().read().decode()


async def main() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello) as origin:
        threading.Thread(target=origin.serve_forever, args=(0.05,)).start()
        async with TunnelServer(listen="127.0.0.1:0") as server:
            origin_url = f"http://127.0.0.1:{origin.server_port}"
            async with TunnelClient(server.url, token="a-secret-of-16-letters", origin=origin_url) as client:
                await client.wait_ready(timeout=10)
                print(await anyio.to_thread.run_sync(get, client.url), end="")
        origin.shutdown()


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
