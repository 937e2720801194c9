"""Ends with status 0 if the tunnel server at HOST PORT says that it takes requests, for a container's health check.

python healthy.py 127.0.0.1 8080
"""

from __future__ import annotations

import http.client
import sys

TIMEOUT = 4.0


def main(host: str, port: str) -> int:
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
    try:
        connection.request("GET", "/_health_check")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from {host}:{port}: {error}")
        return 1
    finally:
        connection.close()
    print(f"status {status}")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
