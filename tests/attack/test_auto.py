"""`attack.auto`: who survives, verified on the network itself; it goes on where it was stopped."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcjax import attack, calibrate, fake_quantize, int8, trace
from hcjax.attack import record
from hcjax.errors import CheckpointError, ConfigError

QUICK = {"apgd-ce": 10, "apgd-t": 10, "fab-t": 10, "square": 40}


def net(params, x):
    x = jax.nn.relu(jax.lax.conv_general_dilated(
        x, params["k"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ))  # fmt: skip
    return x.reshape(x.shape[0], -1) @ params["w"]


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "k": jax.random.normal(keys[0], (3, 3, 1, 8)),
        "w": jax.random.normal(keys[1], (128, 5)),
    }
    x = np.asarray(jax.random.uniform(keys[2], (30, 8, 8, 1)))
    y = np.asarray(net(params, x).argmax(-1)).copy()
    y[:3] = (y[:3] + 1) % 5  # three that it has wrong
    return params, x, y


def run(case, **options):
    params, x, y = case
    options = {"eps": 0.02, "steps": QUICK, "quiet": True, "batch_size": 16} | options
    return attack.auto((net, params), (x, y), **options)


def test_eps_0_leaves_the_clean_accuracy(case):
    result = run(case, eps=0.0)
    assert result.accuracy == result.clean_accuracy == 0.9


@pytest.mark.parametrize("norm, eps", [("linf", 0.02), ("l2", 0.1)])
def test_the_misled_err_within_the_ball(case, norm, eps):
    params, x, y = case
    result = run(case, norm=norm, eps=eps)
    alive = result.survivors["square"]
    assert 0 < result.accuracy < 0.9 and result.accuracy == alive.mean()
    left = [result.clean, *result.survivors.values()]
    assert all((b <= a).all() for a, b in itertools.pairwise(left))
    assert ((net(params, result.inputs).argmax(-1) == y) == alive).all()
    delta = (result.inputs - x).reshape(30, -1)
    size = np.abs(delta).max(-1) if norm == "linf" else np.linalg.norm(delta, axis=1)
    assert size.max() <= eps * (1 + 1e-5) and (size[alive | ~result.clean] == 0).all()
    assert "newly misled" in repr(result) and f"{result.accuracy:.2%}" in repr(result)


def test_it_goes_on_where_it_was_stopped(case, tmp_path, monkeypatch):
    whole = run(case)
    add, calls = record.Record.add, []

    def dies(self, *given):
        add(self, *given)
        calls.append(1)
        if len(calls) % 5 == 0:
            raise KeyboardInterrupt

    path = tmp_path / "attacks.npz"
    monkeypatch.setattr(record.Record, "add", dies)
    for _ in range(40):
        try:
            result = run(case, path=path)
            break
        except KeyboardInterrupt:
            pass
    assert len(calls) > 5
    monkeypatch.undo()
    for name, alive in whole.survivors.items():
        assert (result.survivors[name] == alive).all()
    assert (result.inputs == whole.inputs).all()
    with pytest.raises(CheckpointError, match="eps"):
        run(case, path=path, eps=0.03)
    path.write_bytes(b"no file of ours")
    with pytest.raises(CheckpointError, match="move it"):
        run(case, path=path)


def test_integers_are_attacked_through_a_twin_and_by_queries(case):
    params, x, y = case
    model = trace(net, params, x[:2])
    fake = fake_quantize(model, calibrate(model, x, method="minmax"))
    small = int8(fake)
    options = {"eps": 0.02, "steps": QUICK, "quiet": True, "batch_size": 16}
    with pytest.raises(ConfigError, match="gradients="):
        attack.auto(small, (x, y), **options)
    black = attack.auto(small, (x, y), attacks=("square",), **options)
    both = attack.auto(small, (x, y), gradients=fake, **options)
    assert both.accuracy < black.accuracy <= both.clean_accuracy
    wrong = np.asarray(small.apply(small.params, both.inputs)).argmax(-1) != y
    assert (wrong == ~both.survivors["square"]).all()
    assert "twin" in repr(both)


def test_unknown_attacks_are_refused(case):
    with pytest.raises(ConfigError, match="apgd-ce"):
        run(case, attacks=("apgd-c",))
    with pytest.raises(ConfigError, match="Model or a pair"):
        attack.auto(jnp.zeros(2), (case[1], case[2]), eps=0.1)
