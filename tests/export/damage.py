"""Damaged `.hcz` files, as hypothesis draws them, and what unpacking one may come to."""

import copy
import dataclasses
import hashlib
import json
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import hcjax
from hcjax.errors import ArtifactError
from hcjax.graph.model import at_batch

# what a field of the head may be replaced by
OTHERS = (None, True, 0, -1, 3, 2**31, 2**70, 1e300, 0.5, "", "x", "add", [], {}, [[]], [1, 2])


def tiny():
    """Returns five Models: float, its int8, shared weights; pruned, its 4 bits with a table.

    Together they hold every form of an array, a convolution, a look-up and a tensor with zeros.
    """
    params = {"w": jnp.arange(-6.0, 6.0).reshape(4, 3), "b": jnp.arange(3.0)}
    images = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 2, 1)), jnp.float32)

    def apply(p, x):
        return jax.nn.relu(x.reshape(x.shape[0], -1) @ p["w"] + p["b"]) @ p["w"].T

    model = hcjax.trace(apply, params, images)
    shared = hcjax.share(model, clusters=3)
    small = hcjax.int8(model, hcjax.calibrate(model, images))
    return model, small, shared, *pruned()


def pruned():
    """Returns a convolutional Model, most of whose kernel is 0, and its 4 bits."""
    rng = np.random.default_rng(1)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = normal(3, 3, 2, 8) * (rng.random((3, 3, 2, 8)) < 0.1)
    images = normal(4, 4, 4, 2)

    def apply(p, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, p["k"], (2, 2), "SAME", dimension_numbers=numbers)
        return jax.nn.sigmoid(x).reshape(x.shape[0], -1) @ p["w"]

    model = hcjax.trace(apply, {"k": kernel, "w": normal(32, 3)}, images)
    small = hcjax.int8(model, hcjax.calibrate(model, images), bits=4)
    dense = small.params["w"]
    dense = dataclasses.replace(dense, zero=jnp.zeros(dense.scale.shape, jnp.int32))
    return model, small.replace(params=small.params | {"w": dense})


def survives(data):
    """An ArtifactError, or a Model that can be applied; anything else escapes."""
    try:
        model = hcjax.unpack(data)
    except ArtifactError as error:
        assert str(error)
        return False
    assert hcjax.cost(model).parameters < 10_000
    jax.eval_shape(model.apply, model.params, jnp.zeros((2, *model.image_shape), model.image_dtype))
    # one in four for real: the byte is of the checksum
    if data[4] % 4 == 0 and sum(map(work, model.graph.ops)) < 100_000:
        image = jnp.ones((1, *model.image_shape), model.image_dtype)
        assert len(model.apply(model.params, image)) == 1
    return True


def work(op):
    """Returns how many numbers an op reads and adds, about, for one image."""
    window = at_batch(op.params.get("window_dimensions", ()), 1)
    return op.macs + math.prod(op.sizes(1)) * math.prod(window)


def summed(body):
    """Returns a file of this body, its checksum right."""
    return b"hcz\x01" + hashlib.sha256(body).digest()[:8] + body


def opened(blob):
    """Returns (head, streams) of a file."""
    length = int.from_bytes(blob[12:16], "little")
    return zlib.decompress(blob[16 : 16 + length]), blob[16 + length :]


def closed(head, streams):
    """Returns the file of a head and streams, its checksum right."""
    packed = zlib.compress(head)
    return summed(len(packed).to_bytes(4, "little") + packed + streams)


@st.composite
def edited(draw, data):
    """Bytes with some replaced, cut out, doubled or put in."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 16))
        piece = bytes(data[at : at + length])
        kind = draw(st.sampled_from(("set", "set", "flip", "cut", "double", "put", "end")))
        if kind == "set":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "double":
            data[at:at] = piece
        elif kind == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=length))
        else:
            del data[at:]
    return bytes(data)


def places(value, path=()):
    """Yields the path of each value inside JSON."""
    yield path
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*path, key))


@st.composite
def altered(draw, head):
    """The head with some values anywhere in it replaced, taken out or copied from elsewhere."""
    record = json.loads(head)
    for _ in range(draw(st.integers(1, 3))):
        every = [path for path in places(record) if path]
        path = draw(st.sampled_from(every))
        holder = at(record, path[:-1])
        kind = draw(st.sampled_from(("other", "number", "copy", "gone")))
        if kind == "gone":
            del holder[path[-1]]
        elif kind == "copy":
            holder[path[-1]] = copy.deepcopy(at(record, draw(st.sampled_from(every))))
        elif kind == "number":
            holder[path[-1]] = draw(st.integers(-3, 40))
        else:
            holder[path[-1]] = copy.deepcopy(draw(st.sampled_from(OTHERS)))
        if not record:
            break
    return json.dumps(record).encode()


def at(record, path):
    """Returns the value at a path inside JSON."""
    for key in path:
        record = record[key]
    return record


def damaged(blobs):
    """A strategy of (what was done, bytes): half of them with a right checksum."""

    def of(blob):
        head, streams = opened(blob)
        return st.one_of(
            edited(blob).map(lambda data: ("file", data)),
            st.binary(max_size=64).map(lambda data: ("noise", data)),
            edited(blob[12:]).map(lambda data: ("body, summed", summed(data))),
            edited(head).map(lambda data: ("head, summed", closed(data, streams))),
            altered(head).map(lambda data: ("fields, summed", closed(data, streams))),
            edited(streams).map(lambda data: ("streams, summed", closed(head, data))),
        )

    return st.sampled_from(blobs).flatmap(of)
