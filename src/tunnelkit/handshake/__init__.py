"""What a tunnel client announces when it opens or resumes a session, what the server answers, and the encodings."""

from __future__ import annotations

from .encodings import (
    from_bytes,
    from_fields,
    grant_from_fields,
    grant_to_fields,
    refusal_from_problem,
    refusal_of,
    refusal_to_problem,
    to_bytes,
    to_fields,
)
from .messages import Grant, Handshake, Refusal, Resume
from .values import VERSION

__all__ = [
    "VERSION",
    "Grant",
    "Handshake",
    "Refusal",
    "Resume",
    "from_bytes",
    "from_fields",
    "grant_from_fields",
    "grant_to_fields",
    "refusal_from_problem",
    "refusal_of",
    "refusal_to_problem",
    "to_bytes",
    "to_fields",
]
