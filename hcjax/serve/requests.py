"""A request of the Open Inference Protocol v2, in JSON or with binary tensors, as arrays.

In: a body, and what the network takes. Out: checked arrays; or a RequestError, which says what was
expected and what was found.
"""

from __future__ import annotations

import base64
import binascii
import math
import reprlib
import struct
from typing import Any, NamedTuple

import numpy as np
import orjson

from hcjax.errors import DataError
from hcjax.serve.images import decoded
from hcjax.serve.limits import Limits, RequestError
from hcjax.serve.numbers import numbers_of
from hcjax.serve.signature import BYTES, DATATYPES, Signature, Tensor

_SHORT = reprlib.Repr()  # of what strangers send: neither long nor deep
_SHORT.maxlevel = _SHORT.maxlist = _SHORT.maxdict = 3
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 80
_REFUSED = ("classification", "shared_memory_region", "sequence_id")  # parameters with a meaning


class Request(NamedTuple):
    """A checked request.

    id: of the client, or None. arrays: in the order of the network's inputs. rows: examples.
    outputs: (index of an output, whether it is wanted in binary). timeout: in seconds, or None.
    """

    id: str | None
    arrays: list[np.ndarray]
    rows: int
    outputs: list[tuple[int, bool]]
    timeout: float | None = None


def read_request(
    body: bytes | bytearray, header_length: str | None, takes: Signature, limits: Limits
) -> Request:
    """Returns the arrays of a request.

    Args:
      body: JSON, and after it the binary tensors, if there are any. header_length: bytes of the
        JSON, the header `Inference-Header-Content-Length`; None if all of the body is JSON.
      takes: what the network takes. limits: of the server.

    Raises:
      RequestError: if it is not as the protocol and the network want it.
    """
    document, rest = _parts(body, header_length)
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise _wrong("`inputs` must be a list of tensors", inputs)
    given: dict[str, np.ndarray] = {}
    expected = {tensor.name: tensor for tensor in takes.inputs}
    for tensor in inputs:
        if not isinstance(tensor, dict):
            raise _wrong("a tensor must be an object", tensor)
        name = tensor.get("name")
        if not isinstance(name, str) or name not in expected:
            raise _wrong(f"inputs are named {', '.join(map(repr, expected))}", name)
        if name in given:
            raise _wrong(f"{name} must be given once", "it twice")
        given[name], rest = _array(tensor, expected[name], rest, takes, limits)
    missing = [name for name in expected if name not in given]
    if missing:
        raise _wrong(f"inputs {', '.join(map(repr, expected))} are needed", list(given))
    if len(rest):
        raise _wrong("the binary tensors must end with the body", f"{len(rest)} bytes more")
    arrays = [given[tensor.name] for tensor in takes.inputs]
    counts = {len(x) for x, t in zip(arrays, takes.inputs, strict=True) if t.batched}
    if len(counts) > 1:
        raise _wrong("all inputs must hold as many examples", sorted(counts))
    parameters = _parameters(document)
    identity = document.get("id")
    if not isinstance(identity, str | None):
        raise _wrong("`id` must be a string", identity)
    timeout = parameters.get("timeout")
    if timeout is not None:
        right = type(timeout) is int and 0 <= timeout < 1 << 53
        if not right:
            raise _wrong("`timeout` must be whole microseconds", timeout)
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise _wrong("`binary_data_output` must be true or false", binary)
    outputs = _outputs(document.get("outputs"), takes, binary)
    seconds = timeout / 1e6 if timeout else None
    return Request(identity, arrays, counts.pop() if counts else 1, outputs, seconds)


def read_image(body: bytes, takes: Signature, limits: Limits) -> Request:
    """Returns the request of a body that is one image file; see `read_request`."""
    if takes.pixels is None:
        raise RequestError("this network takes no images, or does not say how they come to it", 415)
    images = _images([bytes(body)], takes, limits)
    return Request(None, [images], 1, [(i, False) for i in range(len(takes.outputs))])


def _wrong(expected: str, found: Any) -> RequestError:
    """Returns the error of what was found, in a few words."""
    text = found if isinstance(found, str) and len(found) < 80 else _SHORT.repr(found)
    return RequestError(f"{expected}; found {text}")


def _parts(body: bytes | bytearray, header_length: str | None) -> tuple[dict, memoryview]:
    """Splits a body into its JSON and its binary tensors."""
    view = memoryview(body)
    length = len(view)
    if header_length is not None:
        right = header_length.isascii() and header_length.isdigit() and len(header_length) < 19
        right = right and int(header_length) <= length
        what = f"Inference-Header-Content-Length must be 0..{length}, the bytes of the body"
        if not right:
            raise _wrong(what, header_length)
        length = int(header_length)
    try:
        document = orjson.loads(view[:length])
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body must be JSON: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise _wrong("the body must be a JSON object", document)
    return document, view[length:]


def _parameters(place: dict) -> dict[str, Any]:
    parameters = place.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _wrong("`parameters` must be an object", parameters)
    for name in _REFUSED:
        if parameters.get(name):
            raise _wrong(f"the parameter {name} is not offered here", "it given")
    return parameters


def _array(
    tensor: dict, expected: Tensor, rest: memoryview, takes: Signature, limits: Limits
) -> tuple[np.ndarray, memoryview]:
    """Returns the array of one tensor, and the bytes of those after it."""
    name, datatype, shape = expected.name, tensor.get("datatype"), tensor.get("shape")
    legal = [expected.datatype, *(["UINT8", BYTES] if takes.pixels else [])]
    right = isinstance(datatype, str) and datatype in legal
    if not right:
        raise _wrong(f"{name} must have the datatype {' or '.join(dict.fromkeys(legal))}", datatype)
    right = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not right:
        raise _wrong(f"the shape of {name} must be a list of whole numbers", shape)
    sizes = [-1] if datatype == BYTES else expected.sizes
    right = len(shape) == len(sizes)
    right = right and all(a == b for a, b in zip(shape, sizes, strict=True) if b >= 0)
    if not right:
        raise _wrong(f"{name} must have the shape {sizes}, -1 for any number of examples", shape)
    if expected.batched and not 1 <= shape[0] <= limits.rows:
        status = 413 if shape[0] else 400
        text = f"{name} must hold 1 to {limits.rows} examples, found {shape[0]}"
        raise RequestError(text, status)
    if expected.batched:
        example = math.prod(expected.shape) * np.dtype(DATATYPES[expected.datatype]).itemsize
        if shape[0] * example > limits.queue_bytes:
            text = f"{name} may hold {limits.queue_bytes} bytes, each example of it {example}"
            raise RequestError(f"{text}; found {shape[0]} examples", 413)
    count, size = math.prod(shape), _parameters(tensor).get("binary_data_size")
    if size is not None:
        right = type(size) is int and 0 <= size <= len(rest)
        if not right:
            raise _wrong(f"binary_data_size of {name} must be 0..{len(rest)}, what is there", size)
        if "data" in tensor:
            raise _wrong(f"{name} comes in binary or in JSON", "both")
        raw, rest = rest[:size], rest[size:]
        if datatype == BYTES:
            return _images(_strings(raw, count, name), takes, limits), rest
        dtype = np.dtype(DATATYPES[datatype]).newbyteorder("<")
        right = size == count * dtype.itemsize
        if not right:
            raise _wrong(f"{name} {datatype}{shape} is {count * dtype.itemsize} bytes", size)
        if datatype == "BOOL":
            right = (np.frombuffer(raw, np.uint8) < 2).all()
            if not right:
                raise _wrong(f"the bytes of {name} must be 0 or 1", "others")
        values = np.frombuffer(raw, dtype).reshape(shape).astype(DATATYPES[datatype])
    else:
        data = tensor.get("data")
        if not isinstance(data, list):
            raise _wrong(f"{name} needs `data`, a list", data)
        if datatype == BYTES:
            return _images(_decoded(data, count, name), takes, limits), rest
        values = numbers_of(data, shape, datatype, name)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise RequestError(f"{name} must hold finite numbers; found NaN or infinity")
    own = takes.pixels and datatype == "UINT8" and expected.datatype != "UINT8"
    return (takes.pixels.ready(values) if own else values), rest


def _strings(raw: memoryview, count: int, name: str) -> list[bytes]:
    """Returns the elements of a binary tensor of BYTES: each after its length, 4 bytes."""
    found, at = [], 0
    while at < len(raw) and len(found) < count:
        size = struct.unpack_from("<I", raw, at)[0] if at + 4 <= len(raw) else len(raw)
        if at + 4 + size > len(raw):
            raise _wrong(f"elements of {name} must end with it", "a longer one")
        found.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    if len(found) != count or at < len(raw):
        raise _wrong(f"{name} must hold {count}", len(found))
    return found


def _decoded(data: list, count: int, name: str) -> list[bytes]:
    """Returns the files of a JSON list of base64."""
    if len(data) != count:
        raise _wrong(f"{name} must hold {count} files in base64", len(data))
    try:
        return [base64.b64decode(text, validate=True) for text in data]
    except (TypeError, ValueError, binascii.Error) as error:
        raise RequestError(f"{name} must hold files in base64: {str(error)[:100]}") from error


def _images(files: list[bytes], takes: Signature, limits: Limits) -> np.ndarray:
    images, left = [], limits.pixels
    try:
        for file in files:
            image, size = decoded(file, takes.pixels.shape, left)
            images.append(image)
            left -= size
    except DataError as error:
        raise RequestError(str(error)) from error
    return takes.pixels.ready(np.stack(images))


def _outputs(wanted: Any, takes: Signature, binary: bool) -> list[tuple[int, bool]]:
    """Returns the outputs that a request names, or all."""
    names = [tensor.name for tensor in takes.outputs]
    if wanted is None or wanted == []:
        return [(i, binary) for i in range(len(names))]
    if not isinstance(wanted, list):
        raise _wrong("`outputs` must be a list", wanted)
    found = []
    for output in wanted:
        name = output.get("name") if isinstance(output, dict) else output
        text = f"outputs are named {', '.join(map(repr, names))}"
        if not (isinstance(output, dict) and isinstance(name, str) and name in names):
            raise _wrong(text, name)
        own = _parameters(output).get("binary_data", binary)
        if not isinstance(own, bool):
            raise _wrong("`binary_data` must be true or false", own)
        found.append((names.index(name), own))
    right = len({i for i, _ in found}) == len(found)
    if not right:
        raise _wrong("each output may be named once", "one named twice")
    return found
