"""Evaluation: the host reads on while devices compute, and adds up in 64 bits."""

import numpy as np

from hcjax.data.dataset import Split
from hcjax.train import evaluation, parallel

SIZE, BATCH = 40, 8  # 5 steps


def test_a_step_is_not_waited_for_before_two_more_are_started():
    started, read = [], []

    class Sum:
        """A sum that is computed when it is read."""

        def __init__(self, step):
            self.step = step

        def __array__(self, dtype=None, copy=None):
            read.append((self.step, len(started)))
            return np.array(2**31 - 1, np.int32)

    each = parallel.evaluate(lambda params, state, batch: (params, {"row": batch["labels"]}))

    def eval_step(params, state, batch):
        started.append(batch)
        return {"count": Sum(len(started))}, each(params, state, batch)[1]

    split = Split(np.zeros((SIZE, 2, 2, 1), np.uint8), np.arange(SIZE, dtype=np.int32))
    scored = evaluation.run_eval(eval_step, 0.0, {}, split, batch_size=BATCH)
    assert read == [(1, 3), (2, 4), (3, 5), (4, 5), (5, 5)]  # (step, steps started by then)
    assert scored.sums["count"] == 5 * (2**31 - 1)
    np.testing.assert_array_equal(scored.each["row"], np.arange(SIZE))
