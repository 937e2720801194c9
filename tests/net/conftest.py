"""Every test here that runs on a loop has ten seconds: what hangs says where, and leaves the loop intact."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import anyio
import pytest

DEADLINE = 10.0


def within_deadline(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @wraps(test)
    async def wrapped(*args: Any, **kwargs: Any) -> None:
        with anyio.fail_after(DEADLINE):
            await test(*args, **kwargs)

    return wrapped


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = within_deadline(pyfuncitem.obj)
