"""Tools for testing transports, and programs that stand on tunnelkit. Nothing here needs pytest.

``docs/testing.md`` shows the relay and the middlebox, which put faults between two ends;
``docs/writing-a-transport.md`` the conformance kit. ``tunnelkit.testing.broken`` has transports that fail it.
"""

from __future__ import annotations

from .checks.base import Check, ContractBroken
from .kit import CHECKS, Outcome, check_named, check_transport, run_check
from .middlebox import Middlebox, serve_middlebox
from .relay import End, Relay, serve_relay
from .wires import Faults, Maker, Wires, wired

__all__ = [
    "CHECKS",
    "Check",
    "ContractBroken",
    "End",
    "Faults",
    "Maker",
    "Middlebox",
    "Outcome",
    "Relay",
    "Wires",
    "check_named",
    "check_transport",
    "run_check",
    "serve_middlebox",
    "serve_relay",
    "wired",
]
