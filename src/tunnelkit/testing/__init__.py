"""Tools for testing transports, and programs that stand on tunnelkit. Nothing here needs pytest.

``relay`` and ``middlebox`` put faults between two ends (``docs/testing.md``).
"""

from __future__ import annotations

from .middlebox import Middlebox, serve_middlebox
from .relay import End, Relay, serve_relay

__all__ = ["End", "Middlebox", "Relay", "serve_middlebox", "serve_relay"]
