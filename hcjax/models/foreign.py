"""Networks of other libraries, as what `fit`, `evaluate` and `trace` take, and back again.

Each library has one function here that splits an object of it into parameters, running statistics
and a pure function, and a line in `LIBRARIES`. None is imported unless an object is its own.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief
from hcjax.errors import ConfigError


class Adapted(NamedTuple):
    """A network of another library, split into what changes and what does not.

    library: its name. params: tree of the arrays that training changes. state: tree of running
    statistics, {} for none. apply: `(params, state, inputs, *, train, key) -> (outputs, state)`, as
    `fit` takes it. put: `(params, state) -> object`, the user's object with these arrays in place
    of its own; of Linen, Haiku and functions, the variables that their `apply` takes.
    """

    library: str
    params: Any
    state: Any
    apply: Callable
    put: Callable

    __repr__ = brief.record

    def inference(self, state: Any = None) -> Callable:
        """Returns `(params, *inputs) -> outputs`, as `trace` and `accelerate` take it.

        Args:
          state: the running statistics to use, e.g. of a Fit; None for those at the start.
        """
        state = self.state if state is None else state

        def predict(params, *inputs):
            given = inputs if len(inputs) > 1 else inputs[0]
            return self.apply(params, state, given, train=False, key=None)[0]

        return predict


def network(module: Any, *inputs: Any, key: jax.Array | None = None, params: Any = None) -> Adapted:
    """Splits a network of Flax Linen or NNX, Equinox, Haiku or Keras into pure parts.

    Running statistics are found: they are the state, never trained, and constants of a Model.

    Args:
      module: a Linen, NNX or Equinox module, an Equinox pair (module, state), `hk.transform(...)`
        or `hk.transform_with_state(...)`, a Keras model on jax, or a function `(params, *inputs)`.
        An Equinox module of one example is mapped over the batch.
      inputs: examples of its arguments, with the batch on the first axis.
      key: PRNG key of initial parameters, for libraries whose objects have none; None for key 0.
      params: of a function; of Linen and Haiku, variables to start from in place of initial ones.

    Returns:
      Adapted. `fit(net.apply, net.params, data, state=net.state, ...)` trains it, of several inputs
      as a tuple; `trace(net.inference(done.state), done.params, *inputs)` reads it.

    Raises:
      ConfigError: if the object is of no library known, or cannot be called with the inputs.

    Example:
      >>> import flax.linen as nn
      >>> net = network(nn.Dense(3), jnp.ones((1, 4)))
      >>> logits = net.inference()(net.params, jnp.ones((2, 4)))
      >>> net.library, net.params["kernel"].shape, logits.shape
      ('Flax Linen', (4, 3), (2, 3))
    """
    if not inputs:
        raise ConfigError("give example inputs too: network(module, images)")
    key = jax.random.key(0) if key is None else key
    for adapt in LIBRARIES.values():
        adapted = adapt(module, inputs, key, params)
        if adapted is not None:
            return adapted
    raise ConfigError(
        f"expected a network of {', '.join(LIBRARIES)}, got {type(module).__module__}."
        f"{type(module).__name__}"
    )


def _is_of(module: Any, *names: str) -> bool:
    """Returns whether an object's class, or one above it, is defined in one of some modules."""
    places = [f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__]
    return any(place.startswith(names) for place in places)


def _arguments(inputs: Any, count: int) -> tuple:
    return tuple(inputs) if count > 1 else (inputs,)


def _flag(function: Callable) -> tuple[str, bool] | None:
    """Returns the argument that selects training, and its value in training; None without one."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    found = [(name, value) for name, value in _FLAGS.items() if name in parameters]
    return found[0] if found else None


_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "inference": False,
}


def _mode(flag: tuple[str, bool] | None, train: bool) -> dict[str, bool]:
    return {} if flag is None else {flag[0]: flag[1] if train else not flag[1]}


def _linen(module: Any, inputs: tuple, key: jax.Array, params: Any) -> Adapted | None:
    if not _is_of(module, "flax.linen.module.Module"):
        return None
    flag, count = _flag(type(module).__call__), len(inputs)
    params_key, other = jax.random.split(key)
    if params is None:
        streams = {"params": params_key, "dropout": other, "default": other}
        params = module.init(streams, *inputs, **_mode(flag, False))
    variables = dict(params)
    params = variables.pop("params", {})

    def apply(params, state, inputs, *, train, key):
        # "params" stands for any stream that a module asks for by another name
        streams = {} if key is None else dict.fromkeys(("dropout", "default", "params"), key)
        mutable = list(state) if train else False
        both = {"params": params, **state}
        arguments = _arguments(inputs, count)
        out = module.apply(both, *arguments, rngs=streams, mutable=mutable, **_mode(flag, train))
        outputs, changed = out if train else (out, {})
        return outputs, {**state, **changed}

    def put(params, state):
        return {"params": params, **state}

    return Adapted("Flax Linen", params, variables, apply, put)


def _nnx(module: Any, inputs: tuple, key: jax.Array, params: Any) -> Adapted | None:
    if not _is_of(module, "flax.nnx."):
        return None
    from flax import nnx

    kinds = (nnx.Param, nnx.BatchStat, nnx.RngState, ...)
    flag, count, graphs = _flag(type(module).__call__), len(inputs), {}
    for train in (True, False):
        mode = copy.deepcopy(module)
        (mode.train if train else mode.eval)()
        graphs[train], ours, stats, random, rest = nnx.split(mode, *kinds)

    def merged(params, state, train, key):
        # new containers, since replacing writes into them
        parts = [jax.tree.map(lambda x: x, part) for part in (ours, stats)]
        for part, values in zip(parts, (params, state), strict=True):
            nnx.replace_by_pure_dict(part, values)
        keys = _with_key(random, key) if key is not None else random
        return nnx.merge(graphs[train], *parts, keys, rest)

    def apply(params, state, inputs, *, train, key):
        network = merged(params, state, train, key)
        outputs = network(*_arguments(inputs, count), **_mode(flag, train))
        return outputs, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)) if train else state

    def put(params, state):
        return merged(params, state, False, None)

    pure = [nnx.to_pure_dict(part) for part in (ours, stats)]
    return Adapted("Flax NNX", *pure, apply, put)


def _with_key(random: Any, key: jax.Array) -> Any:
    """Returns the state of NNX's random streams, each begun anew from a key."""
    leaves, treedef = jax.tree.flatten(random)
    new = []
    for i, leaf in enumerate(leaves):
        typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        new.append(jax.random.fold_in(key, i) if typed else jnp.zeros_like(leaf))
    return jax.tree.unflatten(treedef, new)


def _equinox(module: Any, inputs: tuple, key: jax.Array, params: Any) -> Adapted | None:
    pair = isinstance(module, tuple) and len(module) == 2 and _is_of(module[1], "equinox.nn.")
    module, state = module if pair else (module, None)
    if not _is_of(module, "equinox."):
        return None
    import equinox as eqx

    params, static = eqx.partition(module, eqx.is_inexact_array)
    fixed, rest = eqx.partition(state, eqx.is_array) if pair else ({}, None)
    call_of = type(module).__call__
    takes_key, flag = "key" in inspect.signature(call_of).parameters, _flag(call_of)
    count = len(inputs)

    def call(params, state, arguments, train, key, mapped):
        network = eqx.combine(params, static)
        network = network if train else eqx.nn.inference_mode(network)
        keys = key if takes_key else None
        if keys is not None and mapped:
            keys = jax.random.split(keys, jax.tree.leaves(arguments)[0].shape[0])

        def one(state, key, *arguments):
            options = _mode(flag, train) | ({"key": key} if key is not None else {})
            if not pair:
                return network(*arguments, **options), state
            outputs, new = network(*arguments, eqx.combine(state, rest), **options)
            return outputs, eqx.filter(new, eqx.is_array)

        if not mapped:
            return one(state, keys, *arguments)
        axes = (None, None if keys is None else 0, *[0] * count)
        return jax.vmap(one, axes, (0, None), axis_name="batch")(state, keys, *arguments)

    mapped = _works(lambda: call(params, fixed, inputs, False, None, True))
    if not mapped and not _works(lambda: call(params, fixed, inputs, False, None, False)):
        call(params, fixed, inputs, False, None, True)  # the user's own error

    def apply(params, state, inputs, *, train, key):
        outputs, new = call(params, state, _arguments(inputs, count), train, key, mapped)
        return outputs, new if train else state

    def put(params, state):
        network = eqx.combine(params, static)
        return (network, eqx.combine(state, rest)) if pair else network

    return Adapted("Equinox", params, fixed, apply, put)


def _works(function: Callable) -> bool:
    try:
        jax.eval_shape(function)
    except Exception:  # whatever the network raises for the wrong rank
        return False
    return True


def _haiku(module: Any, inputs: tuple, key: jax.Array, params: Any) -> Adapted | None:
    if not _is_of(module, "haiku."):
        return None
    with_state, count = type(module).__name__.endswith("WithState"), len(inputs)
    key = jax.random.key_data(key)  # Haiku takes keys of the old kind
    # in training, as the statistics of its norms are made only then
    flags = [{name: value} for name, value in _FLAGS.items()]
    flag = next((f for f in flags if _works(lambda: module.init(key, *inputs, **f))), {})  # noqa: B023
    found = module.init(key, *inputs, **flag) if params is None else params
    params, state = found if with_state else (found, {})
    before = (params, state) if with_state else (params,)
    with_key = _works(lambda: module.apply(*before, key, *inputs, **flag))

    def apply(params, state, inputs, *, train, key):
        options = {name: value if train else not value for name, value in flag.items()}
        raw = None if key is None else jax.random.key_data(key)
        arguments = ((raw,) if with_key else ()) + _arguments(inputs, count)
        if with_state:
            return module.apply(params, state, *arguments, **options)
        return module.apply(params, *arguments, **options), state

    def put(params, state):
        return (params, state) if with_state else params

    return Adapted("Haiku", params, state, apply, put)


def _keras(module: Any, inputs: tuple, key: jax.Array, params: Any) -> Adapted | None:
    if not _is_of(module, "keras."):
        return None
    if not module.built:
        module(*inputs)
    ours, fixed = list(module.trainable_variables), list(module.non_trainable_variables)
    params = {name: jnp.asarray(v.value) for name, v in zip(_names(ours), ours, strict=True)}
    named = dict(zip(_names(fixed), fixed, strict=True))
    state = {name: jnp.asarray(v.value) for name, v in named.items() if _is_float(v)}
    count, takes_flag = len(inputs), _flag(module.call) is not None

    def apply(params, state, inputs, *, train, key):
        values = []
        for i, (name, v) in enumerate(named.items()):
            value = state.get(name, v.value)
            if name not in state and key is not None:  # the seed of a random stream
                value = jax.random.bits(jax.random.fold_in(key, i), v.shape, jnp.uint32)
                value = value.astype(str(v.dtype))
            values.append(value)
        arguments = _arguments(inputs, count)
        given = arguments[0] if count == 1 else list(arguments)
        options = {"training": train} if takes_flag else {}
        trained = [params[name] for name in _names(ours)]
        outputs, new = module.stateless_call(trained, values, given, **options)
        changed = {name: x for name, x in zip(named, new, strict=True) if name in state}
        return outputs, changed if train else state

    def put(params, state):
        for name, v in (*zip(_names(ours), ours, strict=True), *named.items()):
            if name in params or name in state:
                v.assign((params | state)[name])
        return module

    return Adapted("Keras", params, state, apply, put)


def _names(variables: list) -> list[str]:
    """Returns the paths of Keras variables, with a number before those that several share."""
    paths = [v.path for v in variables]
    return [f"{i}/{p}" if paths.count(p) > 1 else p for i, p in enumerate(paths)]


def _is_float(variable: Any) -> bool:
    return np.issubdtype(np.dtype(str(variable.dtype)), np.floating)


def _function(module: Any, inputs: tuple, key: jax.Array, params: Any) -> Adapted | None:
    if not inspect.isroutine(module) and not hasattr(module, "func"):
        return None
    if params is None:
        raise ConfigError("of a function give its parameters: network(f, images, params=...)")
    count = len(inputs)

    def apply(params, state, inputs, *, train, key):
        return module(params, *_arguments(inputs, count)), state

    return Adapted("a function", params, {}, apply, lambda params, state: params)


# library -> function (object, inputs, key, params) -> Adapted, or None for an object of others
LIBRARIES: dict[str, Callable[[Any, tuple, jax.Array, Any], Adapted | None]] = {
    "Flax Linen": _linen,
    "Flax NNX": _nnx,
    "Equinox": _equinox,
    "Haiku": _haiku,
    "Keras": _keras,
    "a function": _function,
}
