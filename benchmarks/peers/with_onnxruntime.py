"""ONNX Runtime: the PyTorch network exported; float32, or int8 by its own static quantization."""

import tempfile
from pathlib import Path

import networks
import numpy as np
import onnxruntime
import torch
import with_torch
from onnxruntime import quantization
from onnxruntime.quantization import shape_inference


def make(name, mode, variant):
    """Returns (run(count), images per call, facts)."""
    work = networks.WORKS[name]
    torch.manual_seed(0)
    model = with_torch.network(work).eval()
    images, _ = networks.ready(work.shape, 256)
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    batch = 1 if mode == "latency" else networks.BATCH
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        torch.onnx.export(
            model, torch.from_numpy(images[:batch]), str(path), input_names=["x"], dynamo=False
        )
        if variant == "int8":
            path = quantized(path, images, batch)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    feed = {"x": images[:batch]}
    facts = {"onnxruntime": onnxruntime.__version__}
    facts["parameters"] = sum(p.numel() for p in model.parameters())

    def run(count):
        for _ in range(count):
            session.run(None, feed)

    return run, batch, facts


def quantized(path, images, batch):
    """Returns the path of the statically quantized network, calibrated on two batches."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter([images[:batch], images[batch : 2 * batch]])

        def get_next(self):
            x = next(self.batches, None)
            return None if x is None else {"x": x}

    prepared, out = path.with_name("prepared.onnx"), path.with_name("int8.onnx")
    shape_inference.quant_pre_process(str(path), str(prepared))
    quantization.quantize_static(str(prepared), str(out), Reader(), per_channel=True)
    return out
