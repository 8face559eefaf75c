"""An answer of the Open Inference Protocol v2: arrays as JSON, or as binary tensors after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson

from hcjax.serve.requests import Request
from hcjax.serve.signature import DATATYPES, Tensor

HEADER_LENGTH = "Inference-Header-Content-Length"


def write_answer(
    request: Request,
    results: Sequence[np.ndarray],
    outputs: Sequence[Tensor],
    *,
    name: str,
    version: str,
    milliseconds: float,
) -> tuple[bytes, dict[str, str]]:
    """Returns the body and the headers of an answer.

    Args:
      request: which outputs it wants, and in which form. results: an array of each output.
      outputs: what the network gives. name, version: of the network. milliseconds: that its batch
        was computed in.

    Numbers that are not finite are null in JSON.

    Example:
      >>> output = Tensor("logits", "FP32", (2,), True)
      >>> asked = Request("7", [], 1, [(0, False)])
      >>> numbers = [np.float32([[1, 2]])]
      >>> write_answer(asked, numbers, [output], name="a", version="1", milliseconds=0.5)[0][:41]
      b'{"model_name":"a","model_version":"1","id'
    """
    tensors, blobs = [], []
    for i, binary in request.outputs:
        output = outputs[i]
        x = np.ascontiguousarray(results[i], DATATYPES[output.datatype])
        tensor = {"name": output.name, "datatype": output.datatype, "shape": x.shape}
        if binary:
            blobs.append(x.astype(x.dtype.newbyteorder("<"), copy=False).tobytes())
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            tensor["data"] = x.ravel()
        tensors.append(tensor)
    head = {"model_name": name, "model_version": version}
    if request.id is not None:
        head["id"] = request.id
    head["parameters"] = {"milliseconds": round(milliseconds, 4)}
    head["outputs"] = tensors
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return text, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return b"".join([text, *blobs]), headers
