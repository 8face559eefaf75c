"""What the help says of the public functions, and what they return."""

import inspect
import re
import typing

import jax.numpy as jnp
import pytest

import hcjax

FUNCTIONS = [name for name in hcjax.__all__ if inspect.isfunction(getattr(hcjax, name))]
HELP = " ".join(hcjax.__doc__.split())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_says_what_it_returns(name):
    function = getattr(hcjax, name)
    returned = typing.get_type_hints(function).get("return", inspect.Parameter.empty)
    assert returned is not inspect.Parameter.empty, f"{name} has no annotation"
    assert f"`{name}`" in HELP or name in ("init_state", "make_loss_fn", "make_train_step",
                                           "inference")  # fmt: skip
    sentence = re.search(rf"`{name}`([^`.]*)", HELP)
    if typing.get_origin(returned) is tuple and name != "ranks":  # then the help says of what
        first = typing.get_args(returned)[0].__name__
        assert f"({first}, " in sentence[1], f"the help does not say that {name} returns several"


def test_load_any_returns_what_the_help_says(tmp_path):
    model = hcjax.trace(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}, jnp.ones((1, 2)))
    (tmp_path / "a.hcz").write_bytes(hcjax.pack(model))
    found, about = hcjax.load_any(tmp_path / "a.hcz")
    assert isinstance(found, hcjax.Model) and about == {} == found.about
