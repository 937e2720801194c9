from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .conformance import StreamContract
from .pairs import KINDS, Pair, pair_of

pytestmark = pytest.mark.anyio


class TestEveryByteStream(StreamContract):
    @pytest.fixture(params=KINDS)
    async def pair(self, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
        async with pair_of(request.param) as pair:
            yield pair
