"""Which connection takes the next request, without connections."""

from __future__ import annotations

from tunnelkit.legacy.wsp_server_pool import IDLE_TIME, POOL_LIMIT, Place, Pool


class Asker:
    """Stands in the line, and notes that it was woken."""

    def __init__(self) -> None:
        self.woken = 0
        self.place: Place[str] = Place(self._wake)

    def _wake(self) -> None:
        self.woken += 1


def pool_of(*connections: str, size: int = 10) -> Pool[str]:
    pool: Pool[str] = Pool(size)
    for now, connection in enumerate(connections):
        pool.free(connection, float(now))
    return pool


def stand(pool: Pool[str]) -> Asker:
    asker = Asker()
    pool.stand(asker.place)
    return asker


def test_the_one_unused_longest_is_taken() -> None:
    pool = pool_of("a", "b", "c")
    assert [stand(pool).place.connection for _ in range(2)] == ["a", "b"]
    pool.free("a", 10.0)
    assert [stand(pool).place.connection for _ in range(2)] == ["c", "a"]
    assert repr(pool) == "<Pool idle=0 busy=3 line=0>"


def test_who_finds_none_waits_in_line() -> None:
    pool = pool_of("a")
    stand(pool)
    first, second = stand(pool), stand(pool)
    pool.free("a", 1.0)
    assert (first.place.connection, first.woken, second.woken) == ("a", 1, 0)
    pool.free("b", 2.0)
    assert (second.place.connection, second.woken) == ("b", 1)


def test_who_steps_out_is_passed_over() -> None:
    pool = pool_of("a")
    stand(pool)
    gone, next_one = stand(pool), stand(pool)
    pool.step_out(gone.place, 1.0)
    pool.free("a", 1.0)
    assert (gone.place.connection, next_one.place.connection) == (None, "a")


def test_what_was_given_to_one_who_left_is_free_again() -> None:
    pool = pool_of("a")
    gone, next_one = stand(pool), stand(pool)
    pool.step_out(gone.place, 1.0)
    assert next_one.place.connection == "a"


def test_what_was_closed_meanwhile_is_not_given_again() -> None:
    pool = pool_of("a", "b")
    asker = stand(pool)
    pool.leave("a")
    pool.step_out(asker.place, 1.0)
    assert [stand(pool).place.connection for _ in range(2)] == ["b", None]


def test_with_the_last_connection_goes_the_line() -> None:
    pool = pool_of("a", "b")
    stand(pool)
    stand(pool)
    waiting = stand(pool)
    pool.leave("a")
    assert (pool.closed, waiting.woken, len(pool)) == (False, 0, 1)
    pool.leave("b")
    assert (pool.closed, waiting.woken, waiting.place.connection) == (True, 1, None)


def test_connections_beyond_what_is_kept_go_after_a_while() -> None:
    pool = pool_of("a", "b", "c", "d", size=2)
    assert pool.surplus(IDLE_TIME) == []
    assert pool.surplus(IDLE_TIME + 0.5) == ["a"]
    assert pool.surplus(IDLE_TIME + 10) == ["a", "b"]
    pool.size = 4
    assert pool.surplus(IDLE_TIME + 10) == []


def test_busy_ones_are_never_too_many() -> None:
    pool = pool_of("a", "b", size=0)
    stand(pool)
    assert pool.surplus(IDLE_TIME + 10) == ["b"]


def test_a_pool_has_a_bound() -> None:
    pool = pool_of(*(str(number) for number in range(POOL_LIMIT - 1)))
    assert not pool.full
    pool.free("one more", 0.0)
    assert pool.full
