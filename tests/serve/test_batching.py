"""Requests that are computed together: each gets its own rows, in time or not at all."""

import asyncio

import numpy as np
import pytest

from hcjax.serve.batching import Batcher
from hcjax.serve.limits import Limits, RequestError
from tests.serve.networks import Slow

LIMITS = Limits(batch=8, queue=20)


def run(work):
    return asyncio.run(work())


def rows(value, count=1):
    return [np.full((count, 2), value, np.float32)]


@pytest.mark.parametrize("wait_ms", [0.0, 20.0])
def test_what_comes_together_is_computed_together(wait_ms):
    engine = Slow()

    async def work():
        batcher = Batcher(engine, LIMITS._replace(wait_ms=wait_ms))
        del engine.batches[:]
        futures = [batcher.submit(rows(i, 1 + i % 3), 1 + i % 3, 5) for i in range(9)]
        found = [await future for future in futures]
        for i, result in enumerate(found):
            np.testing.assert_array_equal(result.arrays[0], rows(2 * i, 1 + i % 3)[0])
        await batcher.close()

    run(work)
    assert engine.batches == [7, 8, 3]  # at most 8, and no request is cut


def test_a_long_request_is_computed_in_parts():
    engine = Slow()

    async def work():
        batcher = Batcher(engine, LIMITS)
        del engine.batches[:]
        x = np.arange(42, dtype=np.float32).reshape(21, 2)
        result = await batcher.submit([x], 21, 5)  # more than the queue holds, which is empty
        np.testing.assert_array_equal(result.arrays[0], 2 * x)
        await batcher.close()

    run(work)
    assert engine.batches == [8, 8, 5]


def test_while_one_batch_is_computed_the_next_gathers_up_to_the_bound():
    engine = Slow(0.05)

    async def work():
        batcher = Batcher(engine, LIMITS)
        del engine.batches[:]
        first = batcher.submit(rows(1), 1, 5)
        await asyncio.sleep(0.01)
        others = [batcher.submit(rows(i), 1, 5) for i in range(20)]
        with pytest.raises(RequestError, match="20 examples wait already, of at most 20") as error:
            batcher.submit(rows(1), 1, 5)
        assert error.value.status == 503 and error.value.retry_after >= 1
        others[3].cancel()
        await first
        await asyncio.gather(*others, return_exceptions=True)
        assert batcher.rows == 0
        await batcher.close()

    run(work)
    assert engine.batches == [1, 8, 8, 3]


def test_what_waits_has_a_bound_in_bytes():
    engine = Slow(0.02)

    async def work():
        batcher = Batcher(engine, LIMITS._replace(queue_bytes=100))
        first = batcher.submit(rows(1, 14), 14, 5)  # 112 bytes, alone
        await asyncio.sleep(0.01)
        others = [batcher.submit(rows(1), 1, 5) for _ in range(12)]
        with pytest.raises(RequestError, match="96 bytes wait already, of at most 100") as error:
            batcher.submit(rows(1), 1, 5)
        assert error.value.status == 503
        await asyncio.gather(first, *others)
        await batcher.submit(rows(1), 1, 5)
        await batcher.close()

    run(work)


def test_a_late_request_is_refused_at_once_or_when_its_turn_comes():
    engine = Slow(0.05)

    async def work():
        batcher = Batcher(engine, LIMITS)
        del engine.batches[:]
        first = batcher.submit(rows(1), 1, 5)
        await asyncio.sleep(0.01)
        late = batcher.submit(rows(2), 1, 0.02)
        kept = batcher.submit(rows(3, 8), 8, 5)
        with pytest.raises(RequestError, match="the deadline"):
            batcher.submit(rows(4), 1, 1e-4)
        await first
        with pytest.raises(RequestError, match="beyond its deadline"):
            await late
        assert (await kept).arrays[0][0, 0] == 6
        await batcher.close()

    run(work)
    assert engine.batches == [1, 8]


def test_no_answer_comes_after_its_deadline():
    engine = Slow(0.1)

    async def work():
        batcher = Batcher(engine, LIMITS)
        late, kept = batcher.submit(rows(1), 1, 0.05), batcher.submit(rows(2), 1, 5)
        with pytest.raises(RequestError, match="computed beyond its deadline") as told:
            await late
        assert (told.value.status, told.value.retry_after) == (503, 1)
        np.testing.assert_array_equal((await kept).arrays[0], rows(4)[0])  # of the same batch
        await batcher.close()

    run(work)
    assert engine.batches[-1] == 2


def test_an_engine_that_fails_fails_its_batch_only():
    engine = Slow()

    async def work():
        batcher = Batcher(engine, LIMITS)
        works, engine.run = engine.run, lambda arrays: 1 / 0
        with pytest.raises(ZeroDivisionError):
            await batcher.submit(rows(1), 1, 5)
        engine.run = works
        assert (await batcher.submit(rows(1), 1, 5)).arrays[0][0, 0] == 2
        await batcher.close()

    run(work)
