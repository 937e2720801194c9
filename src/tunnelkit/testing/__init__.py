"""Tools for testing transports, and programs that stand on tunnelkit. Nothing here needs pytest.

``docs/testing.md`` shows a pair of ends, and the relay and the middlebox, which put faults between two ends;
``docs/writing-a-transport.md`` the conformance kit. ``tunnelkit.testing.broken`` has transports that fail it.
"""

from __future__ import annotations

from .checks.base import Check, ContractBroken
from .kit import CHECKS, Outcome, check_named, check_transport, run_check
from .middlebox import Middlebox, serve_middlebox
from .pair import TunnelPair, tunnel_pair
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
    "TunnelPair",
    "Wires",
    "check_named",
    "check_transport",
    "run_check",
    "serve_middlebox",
    "serve_relay",
    "tunnel_pair",
    "wired",
]
