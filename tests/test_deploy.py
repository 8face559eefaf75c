"""What docs/deploy.md shows: its commands run in order from an empty folder, its page in Chromium.

The page needs the npm package onnxruntime-web, in node_modules of this checkout or of a folder that
NODE_PATH names.
"""

import contextlib
import functools
import http.server
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcjax
from tests.processes import free_port
from tests.serve import browser
from tests.tiny import ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text()
PATIENCE_SECONDS = 600


def sections():
    """Returns heading -> its blocks of shell commands, of sections that have some."""
    parts = re.split(r"^## (.*)$", PAGE, flags=re.M)[1:]
    found = {}
    for head, text in zip(parts[::2], parts[1::2], strict=True):
        if blocks := re.findall(r"^```sh\n(.*?)^```$", text, flags=re.M | re.S):
            found[head] = blocks
    return found


def programs(place):
    """Writes the programs that an installation has on the PATH, of this interpreter."""
    for name, module in (("python", ""), ("hcjax", "-m hcjax")):
        path = place / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return place


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_commands_run_in_order(tmp_path, compiled):
    (tmp_path / "bin").mkdir()
    environment = os.environ | {
        "PATH": f"{programs(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    work = tmp_path / "work"
    work.mkdir()
    said, port = {}, str(free_port())
    for head, blocks in sections().items():
        for block in blocks:
            block = block.replace("8000", port)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block], cwd=work, env=environment,
                capture_output=True, text=True, timeout=PATIENCE_SECONDS,
            )  # fmt: skip
            assert done.returncode == 0, f"{head}: {block}\n{done.stdout}\n{done.stderr}"
            said[head] = done.stdout
    assert said["Train and export"].count("as promised") == 6
    assert "equal bits" in said["Train and export"]
    assert "as exported: True" in said["A server with jax: CPU, GPU, TPU"]
    served = said["A server with jax: CPU, GPU, TPU"].split("\n")[0].split()
    assert said["A device, in C"].split("\n")[-1].split() == served and len(served) == 16
    assert "as exported: True" in said["A server over HTTP"]


def web():
    """Returns the folder of ONNX Runtime Web's files, or None."""
    places = [ROOT / "node_modules", *map(Path, os.environ.get("NODE_PATH", "").split(":"))]
    found = (place / "onnxruntime-web" / "dist" for place in places)
    return next((place for place in found if (place / "ort.wasm.min.js").exists()), None)


@contextlib.contextmanager
def hosted(folder):
    """Serves the files of a folder; gives their address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
            ".mjs": "text/javascript",
            ".wasm": "application/wasm",
        }

        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["float", "int8"])
def test_a_browser_runs_the_exported_network(tmp_path, form):
    if browser.MISSING or web() is None:
        pytest.skip(f"{browser.MISSING or 'the npm package onnxruntime-web'} is not here")
    network = hcjax.models.create("lenet5", num_classes=10, input_shape=(28, 28, 1))
    params, state = network.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 28, 28, 1)), jnp.float32)
    model = hcjax.fold(hcjax.trace(hcjax.inference(network.apply, state), params, x[:1]))
    if form == "int8":
        model = hcjax.int8(model, hcjax.calibrate(model, x))
    hcjax.export.write(model, tmp_path / "out", to=["onnx"], inputs=x)
    (page,) = re.findall(r"^```html\n(.*?)^```$", PAGE, flags=re.M | re.S)
    if form == "float":
        page = page.replace("network.qdq.onnx", "network.onnx")
    (tmp_path / "out" / "page.html").write_text(page)
    for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        shutil.copy(web() / name, tmp_path / "out")
    with hosted(tmp_path / "out") as url, browser.Browser() as window:
        window.open(f"{url}/page.html")
        window.wait("return document.title")
        window.run(
            "answer(Float32Array.from(arguments[0])).then(l => { window.found = [...l]; })",
            np.asarray(x).ravel().tolist(),
        )
        found = np.float32(window.wait("return window.found")).reshape(16, 10)
    expected = np.asarray(jax.jit(model.apply)(model.params, x))
    if form == "float":
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))
    else:  # rounded elsewhere than here, as docs/export_onnx.md says
        np.testing.assert_allclose(found, expected, atol=0.02 * np.ptp(expected))
        assert (found.argmax(1) == expected.argmax(1)).mean() >= 15 / 16
