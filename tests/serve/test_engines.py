"""What computes: batches of any size, and errors of what cannot."""

import shutil

import numpy as np
import pytest

import hcjax
from hcjax.errors import ConfigError
from hcjax.native import build
from hcjax.serve.engines import ENGINES, JaxEngine, integers, make_engine
from tests.serve import networks


@pytest.mark.parametrize("rows", [1, 2, 3, 6])
def test_a_batch_that_is_filled_up_gives_what_it_gives_alone(rows):
    model = networks.dense()
    x = np.random.default_rng(rows).normal(size=(rows, 4, 4, 1)).astype(np.float32)
    (found,) = JaxEngine(model, 6, tuned=False).run([x])
    np.testing.assert_allclose(found, networks.expected(model, x), rtol=1e-5, atol=1e-6)


def test_integers_are_the_same_bits_in_every_size_of_batch():
    import hcjax

    model, _ = hcjax.load_any(networks.folder() / "int8.hcz")
    assert integers(model) and not integers(networks.dense())
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype(np.float32)
    engine = make_engine(model, "jit", 8)[1]
    (whole,) = engine.run([x])
    np.testing.assert_array_equal(whole, networks.expected(model, x))
    for rows in (1, 3, 5):
        np.testing.assert_array_equal(engine.run([x[:rows]])[0], whole[:rows])


def test_another_engine_is_one_line_and_an_unknown_one_is_named(monkeypatch):
    model = networks.dense()
    monkeypatch.setitem(ENGINES, "mine", lambda model, batch: JaxEngine(model, batch, tuned=False))
    assert make_engine(model, "mine", 2)[0] == "mine"
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        make_engine(model, "min", 2)

    class Wrong(JaxEngine):
        def run(self, arrays):
            return [super().run(arrays)[0][:, :2]]

    monkeypatch.setitem(ENGINES, "mine", lambda model, batch: Wrong(model, batch, tuned=False))
    with pytest.raises(ConfigError, match=r"\(1, 2\).*\(1, 3\)"):
        make_engine(model, "mine", 2)


def test_auto_takes_c_for_integers_where_there_is_a_compiler_and_else_jax(monkeypatch):
    model, x = networks.dense(), np.ones((3, 4, 4, 1), np.float32)
    assert make_engine(model, "auto", 1)[0] == "jax"
    small = hcjax.int8(model, hcjax.calibrate(model, x))
    name, engine = make_engine(small, "auto", 4)
    assert name == ("c" if shutil.which("g++") else "jax")
    np.testing.assert_array_equal(engine.run([x])[0], networks.expected(small, x))

    def none():
        raise build.BuildError("there is no compiler")

    monkeypatch.setattr(build, "compiler", none)
    assert make_engine(small, "auto", 1)[0] == "jax"
