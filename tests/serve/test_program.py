"""The command as a program: clients of others, what strangers send, reloads and ends under load."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from tests.serve import networks
from tests.serve.networks import Load, Server, folder
from tests.tiny import ROOT

for package in ("uvicorn", "starlette", "orjson", "prometheus_client"):
    pytest.importorskip(package)

X = np.random.default_rng(2).normal(size=(2, 4, 4, 1)).astype(np.float32)
FLAGS = ("--engine=jit", "--batch=8")
pytestmark = pytest.mark.slow


def body_of(x=X):
    tensor = {"name": "images", "datatype": "FP32", "shape": x.shape, "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def ask(connection, body=None, path="/v2/models/dense/infer", **headers):
    """Returns (status, answer) over a connection that stays open."""
    connection.request("POST", path, body_of() if body is None else body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.fixture(scope="module")
def server():
    flags = ("--body_bytes=100000",)
    names = (f"dense={folder() / 'dense.hcz'}", f"int8={folder() / 'int8.hcz'}")
    with Server(*names, *FLAGS, *flags) as server:
        yield server
        code, rest = server.end()
        assert code == 0 and '"ended"' in rest, rest


@pytest.mark.parametrize("binary", [False, True])
def test_the_client_of_triton_is_understood(server, binary):
    client_of = pytest.importorskip("tritonclient.http")
    client = client_of.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("dense")
    assert client.get_model_metadata("dense")["inputs"][0]["shape"] == [-1, 4, 4, 1]
    assert {m["name"] for m in client.get_model_repository_index()} == {"dense", "int8"}
    given = client_of.InferInput("images", list(X.shape), "FP32")
    given.set_data_from_numpy(X, binary_data=binary)
    wanted = client_of.InferRequestedOutput("logits", binary_data=binary)
    found = client.infer("dense", [given], outputs=[wanted], request_id="7")
    expected = networks.expected(networks.dense(), X)
    np.testing.assert_allclose(found.as_numpy("logits"), expected, rtol=1e-5)
    with pytest.raises(client_of.InferenceServerException, match="images"):
        client.infer("dense", [client_of.InferInput("other", [1], "FP32").set_data_from_numpy(
            np.zeros(1, np.float32))])  # fmt: skip
    client.load_model("dense")
    client.close()


def test_no_answer_waits_for_the_receipt_of_its_headers(server):
    own = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    start = time.monotonic()
    assert all(ask(own)[0] == 200 for _ in range(100))
    assert time.monotonic() - start < 2  # it took 4 s


def test_strangers_get_no_failure_and_others_right_answers():
    command = [sys.executable, ROOT / "benchmarks" / "malformed.py", "--requests=600"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "problems: none" in done.stdout


def test_whoever_sends_too_much_is_told_and_not_cut_off(server):
    head = b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 700000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as s:
        s.sendall(head)
        for _ in range(7):
            s.sendall(b"x" * 100_000)
            time.sleep(0.05)
        assert b" 413 " in s.recv(100)


def test_reloads_under_load_fail_nobody(tmp_path):
    models = [networks.dense(seed) for seed in (0, 5)]
    file = networks.write(tmp_path / "dense.hcz", models[0])
    with Server(file, *FLAGS, "--watch_seconds=0.1") as server:
        load = Load(server.port, body_of())
        for i in range(4):
            time.sleep(1.0)
            networks.write(file, models[(i + 1) % 2])
        urllib.request.urlopen(f"{server.url}/v2/repository/models/dense/load", b"").read()
        load.stop()
        assert not load.failures and len(load.answers) > 100
        wanted = [networks.expected(model, X).ravel() for model in models]
        which = {min((0, 1), key=lambda i: np.abs(x - wanted[i]).sum()) for x in load.answers}
        assert which == {0, 1}
        nearest = [min(np.abs(x - w).max() for w in wanted) for x in load.answers]
        assert max(nearest) < 1e-4  # never a mixture
        assert server.end()[0] == 0


@pytest.mark.parametrize("wait_ms", [0, 300])
def test_what_was_accepted_is_answered_when_the_server_is_ended(wait_ms):
    with Server(f"dense={folder() / 'dense.hcz'}", *FLAGS, f"--wait_ms={wait_ms}") as server:
        load = Load(server.port, body_of(), clients=6)
        time.sleep(1.5)
        code, rest = server.end()
        load.stop()
        assert code == 0, rest
        assert not load.failures and len(load.answers) >= 6


def test_tls_a_token_and_requests_in_the_log(tmp_path):
    import shutil
    import ssl

    if not shutil.which("openssl"):
        pytest.skip("openssl is not here")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
               "/CN=localhost", "-keyout", key, "-out", certificate]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    flags = (f"--certificate={certificate}", f"--key={key}", "--log_requests")
    with Server(f"dense={folder() / 'dense.hcz'}", *FLAGS, *flags, HCJAX_TOKEN="mine") as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        context.check_hostname = False
        own = http.client.HTTPSConnection("127.0.0.1", server.port, context=context)
        assert ask(own, authorization="Bearer mine")[0] == 200
        assert ask(own, authorization="Bearer yours")[0] == 401
        _, rest = server.end()
        said = [json.loads(line) for line in rest.splitlines()]
        statuses = [line["status"] for line in said if line["event"] == "request"]
        assert statuses == [200, 401] and "mine" not in rest


def test_a_digit_drawn_on_the_page_is_recognised(tmp_path):
    from tests.serve import browser, page

    if browser.MISSING:
        pytest.skip(f"{browser.MISSING} is not here")
    files = page.digits(tmp_path)
    with Server(*files, *FLAGS, HCJAX_TOKEN="mine") as server, browser.Browser() as window:
        window.open(server.url)
        window.wait("return !document.getElementById('door').hidden")
        window.run("document.getElementById('token').value = 'mine';"
                   "document.querySelector('#door button').click()")  # fmt: skip
        window.wait("return document.querySelectorAll('article').length == 2")
        for digit, lines in page.DRAWN.items():
            window.run("document.getElementById('clear').click()")
            window.wait("return document.querySelectorAll('li.best').length == 0")
            for line in lines:
                window.draw(line)
            right = ".every(e => e.firstChild.textContent == arguments[0])"
            window.wait(f"return [...document.querySelectorAll('.answer')]{right}", str(digit))
        window.run("document.getElementById('why').click()")
        window.wait("return !document.getElementById('legend').hidden")
        window.run("document.getElementById('clear').click();"
                   "document.getElementById('pad').focus()")  # fmt: skip
        window.keys("\ue013" * 12 + " " + "\ue015" * 24 + " ")  # up, pen down, a line: a one
        window.wait("return document.querySelector('.answer').firstChild.textContent == '1'")
        assert not window.run("return document.getElementById('problem').textContent")


def test_memory_and_processes_are_left_to_the_machine():
    with Server(f"dense={folder() / 'dense.hcz'}", *FLAGS, "--queue=16") as server:

        def resident():
            with open(f"/proc/{server.process.pid}/status") as file:
                return int(next(x for x in file if x.startswith("VmRSS")).split()[1]) / 1e3

        if not os.path.exists("/proc/self/status"):
            pytest.skip("/proc is not here")
        load = Load(server.port, body_of(), clients=2)
        time.sleep(1)
        before = resident()
        more = Load(server.port, body_of(), clients=30)
        time.sleep(3)
        load.stop()
        more.stop()
        assert resident() < before + 100  # MB
        assert not [text for text in load.failures + more.failures if "KeyError" not in text]
