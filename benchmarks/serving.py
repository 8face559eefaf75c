"""Measures requests/s of a server with `wrk`, beside MLServer.

    python benchmarks/serving.py model.hcz                     requests/s of each engine
    python benchmarks/serving.py model.hcz --mlserver VENV     beside MLServer, the same ONNX model

`wrk` is Debian's. VENV holds mlserver and onnxruntime: `python -m venv VENV && VENV/bin/pip install
mlserver onnxruntime`; MLServer's runtime is ten lines around an ONNX Runtime session of one thread,
and its model what `hcjax.export` writes: float, or QDQ of a network in integers. Servers and wrk
share this machine's cores, in turns, --rounds times; the medians are printed.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np

import hcjax
from hcjax.core import text
from tests.processes import free_port
from tests.serve import networks

NAME = "model"
LUA = """wrk.method = "POST"
local f = io.open("{body}", "rb"); wrk.body = f:read("*a"); f:close()
{headers}
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %.1f %.3f %.3f %d %d\\n",
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.status, e.connect + e.read + e.write + e.timeout))
end
"""
MLSERVER = """
import numpy as np, onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Runtime(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession("model.onnx", options)
        self._input = self._session.get_inputs()[0].name
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        y = self._session.run(None, {self._input: x})[0]
        outputs = [NumpyCodec.encode_output("logits", y)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


def request_of(x: np.ndarray, binary: bool) -> tuple[bytes, dict[str, str]]:
    """Returns the body and the headers of a request."""
    tensor = {"name": "images", "datatype": "FP32", "shape": x.shape}
    if not binary:
        document = {"inputs": [tensor | {"data": x.ravel().tolist()}]}
        return json.dumps(document).encode(), {"content-type": "application/json"}
    tensor["parameters"] = {"binary_data_size": x.nbytes}
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    return head + x.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def wrk(url: str, x: np.ndarray, binary: bool, folder, seconds: int, clients: int = 8) -> dict:
    """Returns requests/s, p50 and p99 in ms, answers that are errors, and broken connections."""
    body, headers = request_of(x, binary)
    (folder / "body").write_bytes(body)
    lines = "\n".join(f'wrk.headers["{k}"] = "{v}"' for k, v in headers.items())
    script = folder / "ask.lua"
    script.write_text(LUA.replace("{body}", str(folder / "body")).replace("{headers}", lines))
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout=20s", "-s", script, url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\d+) (\d+)", out)
    return dict(zip(("rate", "p50", "p99", "refused", "broken"), map(float, found.groups()),
                    strict=True))  # fmt: skip


class MLServer:
    """MLServer of one ONNX model, in this process' folder, without workers of its own."""

    def __init__(self, python: pathlib.Path, model: pathlib.Path, folder: pathlib.Path):
        from hcjax.export.onnx.export import onnx
        from hcjax.serve.engines import integers

        loaded, _ = hcjax.load_any(model)
        form = "qdq" if integers(loaded) else "float"
        (folder / "model.onnx").write_bytes(onnx(loaded, form=form))
        (folder / "runtime.py").write_text(MLSERVER)
        port = free_port()
        settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
                    "parallel_workers": 0, "debug": False}  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        named = {"name": NAME, "implementation": "runtime.Runtime"}
        (folder / "model-settings.json").write_text(json.dumps(named))
        self.url = f"http://127.0.0.1:{port}"
        environment = os.environ | {"PYTHONPATH": str(folder)}
        self._process = subprocess.Popen([python / "bin/mlserver", "start", "."], cwd=folder,
                                         env=environment, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL)  # fmt: skip
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.url}/v2/models/{NAME}/ready").read()
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit("MLServer does not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()


def rates(options, folder: pathlib.Path) -> None:
    """Prints requests/s of each server in each form."""
    model, _ = hcjax.load_any(options.model)
    rows, ways = {}, [(binary, batch) for batch in options.batches for binary in (False, True)]
    makers = {
        engine: lambda engine=engine: networks.Server(
            f"{NAME}={options.model}", f"--engine={engine}"
        )
        for engine in options.engines
    }
    if options.mlserver and (options.mlserver / "bin/mlserver").exists():
        makers["MLServer"] = lambda: MLServer(options.mlserver, options.model, folder)
    else:
        print("MLServer is left out: --mlserver names no environment that has it")
    for _ in range(options.rounds):
        for engine, make in makers.items():
            with make() as server:
                for binary, batch in ways:
                    if engine == "MLServer" and binary:
                        continue  # it answers JSON only
                    x = np.random.default_rng(0).normal(size=(batch, *model.image_shape))
                    url = f"{server.url}/v2/models/{NAME}/infer"
                    found = wrk(url, x.astype(np.float32), binary, folder, options.seconds)
                    rows.setdefault((engine, binary, batch), []).append(found)
    table = []
    for (engine, binary, batch), found in rows.items():
        middle = {key: statistics.median(each[key] for each in found) for key in found[0]}
        base = rows.get(("MLServer", False, batch))
        ratio = middle["rate"] / statistics.median(b["rate"] for b in base) if base else None
        table.append([engine, "binary" if binary else "JSON", str(batch), f"{middle['rate']:,.0f}",
                      f"{middle['p50']:.2f}", f"{middle['p99']:.2f}", f"{middle['refused']:.0f}",
                      f"{middle['broken']:.0f}", f"{ratio:.1f}" if ratio else "–"])  # fmt: skip
    heads = ["engine", "form", "batch", "requests/s", "p50 ms", "p99 ms", "errors", "broken",
             "/ MLServer JSON"]  # fmt: skip
    print(text.table(table, heads))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="a packed file")
    parser.add_argument("--engines", nargs="+", default=["auto", "jax"])
    parser.add_argument("--mlserver", type=pathlib.Path, help="a virtual environment with it")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        print("wrk is not here; Debian has it")
        return 2
    with tempfile.TemporaryDirectory() as name:
        rates(options, pathlib.Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
