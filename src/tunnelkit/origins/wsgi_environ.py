"""PEP 3333's environ: a pure function over the request's head."""

from __future__ import annotations

import io
import logging
from typing import Any

from ..heads import Fields, RequestHead
from .facts import RequestFacts

__all__ = ["ErrorLog", "wsgi_environ"]

logger = logging.getLogger("tunnelkit.client")


def wsgi_environ(head: RequestHead, facts: RequestFacts, root_path: str = "") -> dict[str, Any]:
    """All but ``wsgi.input``. Strings hold bytes as Latin-1, as PEP 3333 has it."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.method.decode("ascii"),
        "SCRIPT_NAME": root_path.encode().decode("latin-1"),
        "PATH_INFO": facts.path.decode("latin-1"),
        "QUERY_STRING": facts.query.decode("ascii"),
        "SERVER_NAME": facts.host or "localhost",
        "SERVER_PORT": str(facts.port),
        "SERVER_PROTOCOL": "HTTP/" + head.version.decode("ascii"),
        "REMOTE_ADDR": facts.caller,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": facts.scheme,
        "wsgi.errors": ErrorLog(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,  # it may be read to its end, whether CONTENT_LENGTH is there or not
    }
    environ.update(_variables(facts.fields))
    return environ


_WITHOUT_PREFIX = {"CONTENT_TYPE", "CONTENT_LENGTH"}
# "Proxy" would become HTTP_PROXY, which programs take for a setting (CVE-2016-5385).
_NEVER = {"HTTP_PROXY"}


def _variables(fields: Fields) -> dict[str, str]:
    """Fields of the same name are joined. Names with an underscore are left out: they could not be told from those
    with a hyphen, which proxies have judged."""
    variables: dict[str, str] = {}
    for name, value in fields:
        if b"_" in name:
            continue
        key = name.decode("ascii").upper().replace("-", "_")
        if key not in _WITHOUT_PREFIX:
            key = "HTTP_" + key
        text = value.decode("latin-1")
        if key in variables:
            text = variables[key] + ("; " if key == "HTTP_COOKIE" else ", ") + text
        variables[key] = text
    for key in _NEVER:
        variables.pop(key, None)
    return variables


class ErrorLog(io.TextIOBase):
    """``wsgi.errors``: what is written there becomes lines of the log."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line:
                logger.error("the WSGI app: %s", line)
        return len(text)
