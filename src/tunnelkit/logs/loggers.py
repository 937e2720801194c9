"""The three loggers."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["ACCESS", "CLIENT", "SERVER"]

SERVER: Final = logging.getLogger("tunnelkit.server")  # what happens at a server, sessions above all
CLIENT: Final = logging.getLogger("tunnelkit.client")  # at a client
ACCESS: Final = logging.getLogger("tunnelkit.access")  # a line for each request, at either end
logging.getLogger("tunnelkit").addHandler(logging.NullHandler())
