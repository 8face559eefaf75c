"""A server over its networks: the protocol's routes, in JSON, in binary, and with image files."""

import asyncio
import base64
import io
import json
import struct
import threading
import time
import warnings

import numpy as np
import pytest

from tests.serve import networks, strangers
from tests.serve.networks import folder

warnings.filterwarnings("ignore", message=".*httpx.*")
testclient = pytest.importorskip("starlette.testclient")
pytest.importorskip("prometheus_client")

from hcjax import monitor  # noqa: E402
from hcjax.app.serving import place_of  # noqa: E402
from hcjax.errors import ConfigError  # noqa: E402
from hcjax.graph import interface  # noqa: E402
from hcjax.runs.saved import load_any  # noqa: E402
from hcjax.serve import routes  # noqa: E402
from hcjax.serve.limits import Limits  # noqa: E402
from hcjax.serve.metrics import Metrics  # noqa: E402
from hcjax.serve.repository import Repository  # noqa: E402
from hcjax.serve.routes import make_app  # noqa: E402
from hcjax.serve.signature import signature  # noqa: E402

LIMITS = Limits(body_bytes=50_000, pixels=10_000, rows=9, batch=4)
X = np.random.default_rng(2).normal(size=(2, 4, 4, 1)).astype(np.float32)


def app_of(*texts, token=None, limits=LIMITS):
    metrics = Metrics()
    repository = Repository([place_of(text) for text in texts], load_any, "jit", limits, metrics)
    repository.load_all()
    return make_app(repository, limits, metrics, token=token)


@pytest.fixture(scope="module")
def client():
    names = [f"dense={folder() / 'dense.hcz'}", f"dense:2={folder() / 'int8.hcz'}",
             f"two={folder() / 'two.hcz'}"]  # fmt: skip
    with testclient.TestClient(app_of(*names), raise_server_exceptions=False) as client:
        yield client


def tensor(x=X, datatype="FP32", **others):
    return {"name": "images", "datatype": datatype, "shape": list(x.shape),
            "data": x.ravel().tolist()} | others  # fmt: skip


def infer(client, document, version="1", **headers):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return client.post(f"/v2/models/dense/versions/{version}/infer", content=body, headers=headers)


def png(pixels):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def jpeg_of_scans(count):
    """Returns a progressive JPEG with its last scan so many times more: each costs all pixels."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(file, "jpeg", progressive=True)
    whole = file.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def test_health_server_and_metadata(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["name"] == "hcjax"
    found = client.get("/v2/models/dense").json()
    assert found["versions"] == ["1", "2"] and found["parameters"]["version"] == "2"
    assert found["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 4, 4, 1]}]
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]
    assert found["parameters"]["bytes"] == (folder() / "int8.hcz").stat().st_size
    assert client.get("/v2/models/two/versions/1/ready").json()["ready"]
    assert {m["name"] for m in client.get("/v2/models").json()["models"]} == {"dense", "two"}
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v2/models/{name}/infer" in paths
    for path, text in {"/v2/models/other": "dense, two", "/v2/models/dense/versions/7": "1, 2",
                       "/v2/nothing": "nothing"}.items():  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 404 and text in answer.json()["error"]
    assert client.get("/v2/models/dense/infer").status_code == 405


def test_json_and_binary_tensors_give_what_the_network_does(client):
    expected = networks.expected(networks.dense(), X)
    answer = infer(client, {"id": "7", "inputs": [tensor()]})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["id"], said["model_name"], said["model_version"]) == ("7", "dense", "1")
    assert said["outputs"][0]["shape"] == [2, 3]
    np.testing.assert_allclose(said["outputs"][0]["data"], expected.ravel(), rtol=1e-5)
    nested = infer(client, {"inputs": [tensor(data=X.tolist())]})
    assert nested.json()["outputs"] == said["outputs"]

    raw = X.tobytes()
    head = {"inputs": [tensor(parameters={"binary_data_size": len(raw)})]}
    del head["inputs"][0]["data"]
    head["outputs"] = [{"name": "logits", "parameters": {"binary_data": True}}]
    text = json.dumps(head).encode()
    answer = infer(client, text + raw, **{"Inference-Header-Content-Length": str(len(text))})
    length = int(answer.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert output["parameters"]["binary_data_size"] == len(answer.content) - length == 24
    found = np.frombuffer(answer.content[length:], "<f4").reshape(2, 3)
    np.testing.assert_array_equal(found, np.float32(said["outputs"][0]["data"]).reshape(2, 3))


def test_a_network_of_several_inputs_and_outputs(client):
    inputs = [
        {"name": "1", "datatype": "INT32", "shape": [2], "data": [3, 4]},
        {"name": "0", "datatype": "FP32", "shape": [2, 3], "data": [[1, 0, 0], [0, 1, 0]]},
    ]
    said = client.post("/v2/models/two/infer", json={"inputs": inputs}).json()
    found = {output["name"]: output["data"] for output in said["outputs"]}
    assert found == {"sum": [4, 3, 3, 4, 5, 4], "twice": [6, 8]}
    some = {"inputs": inputs, "outputs": [{"name": "twice"}]}
    (output,) = client.post("/v2/models/two/infer", json=some).json()["outputs"]
    assert output == {"name": "twice", "datatype": "INT32", "shape": [2], "data": [6, 8]}


@pytest.mark.parametrize("version", ["1", "2"])
def test_pixels_and_image_files_are_normalised_as_in_training(client, version):
    pixels = np.random.default_rng(3).integers(0, 256, (4, 4), np.uint8)
    x = (pixels.astype(np.float32) / 255 - 0.5).reshape(1, 4, 4, 1) / 0.25
    wanted = infer(client, {"inputs": [tensor(x)]}, version).json()["outputs"]
    file = png(pixels)
    whole = infer(client, file, version, **{"content-type": "image/png"})
    assert whole.status_code == 200, whole.text
    text = base64.b64encode(file).decode()
    asked = [
        tensor(pixels.reshape(1, 4, 4, 1), "UINT8"),
        {"name": "images", "datatype": "BYTES", "shape": [1], "data": [text]},
    ]
    said = [whole.json(), *(infer(client, {"inputs": [each]}, version).json() for each in asked)]
    for each in said:
        np.testing.assert_allclose(each["outputs"][0]["data"], wanted[0]["data"], rtol=1e-5)
    size = struct.pack("<I", len(file))
    parameters = {"binary_data_size": len(file) + 4}
    head = [{"name": "images", "datatype": "BYTES", "shape": [1], "parameters": parameters}]
    body = json.dumps({"inputs": head}).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    assert (
        infer(client, body + size + file, version, **headers).json()["outputs"]
        == said[0]["outputs"]
    )


WRONG = {
    "images": {"inputs": [tensor(name="image")]},
    "given once": {"inputs": [tensor(), tensor()]},
    "[-1, 4, 4, 1]": {"inputs": [tensor(X[..., 0])]},
    "whole numbers": {"inputs": [tensor(shape=[2, 4, 4, 1.0])]},
    "FP32 or UINT8 or BYTES": {"inputs": [tensor(datatype="INT8")]},
    "flat or nested": {"inputs": [tensor(data=[1.0])]},
    "several lengths": {"inputs": [tensor(data=[[1.0], [1.0, 2.0]])]},
    "found text": {"inputs": [tensor(data=["1"] * 32)]},
    "found null": {"inputs": [tensor(data=[None] * 32)]},
    "found bool": {"inputs": [tensor(data=[True, 1.5] * 16)]},
    "found an object": {"inputs": [tensor(data=[{}] + [1.5] * 31)]},
    "lists in some": {"inputs": [tensor(data=[1.5] * 31 + [[]])]},
    "found [1, 32]": {"inputs": [tensor(data=[[1.5] * 32])]},
    # an array of texts would be 560 MB
    "found [7001]": {"inputs": [tensor(data=["x" * 20_000] + [""] * 7000)]},
    "infinity": {"inputs": [tensor(data=[1e39] * 32)]},
    "0..255": {"inputs": [tensor(datatype="UINT8", data=[256] * 32)]},
    "needs `data`": {"inputs": [tensor(data=7)]},
    "must be a list of tensors": {"inputs": {}},
    "an object": {"inputs": [7]},
    "JSON object": [],
    "must be JSON": b"{",
    "JSON: ": b'{"inputs": [NaN]}',
    "outputs are named": {"inputs": [tensor()], "outputs": [{"name": "other"}]},
    "named once": {"inputs": [tensor()], "outputs": [{"name": "logits"}] * 2},
    "classification": {"inputs": [tensor()],
                       "outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
    "microseconds": {"inputs": [tensor()], "parameters": {"timeout": -1}},
    "`id`": {"inputs": [tensor()], "id": 7},
    "binary_data_size": {"inputs": [tensor(parameters={"binary_data_size": 128})]},
    "1 to 9": {"inputs": [tensor(shape=[0, 4, 4, 1], data=[])]},
    "base64": {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": ["é"]}]},
    "PNG or JPEG": {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1],
                                "data": ["QUJD"]}]},
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_and_costs_nothing(client, text):
    answer = infer(client, WRONG[text])
    assert answer.status_code == 400 and text in answer.json()["error"], answer.text


def test_images_in_json_are_decoded_aside_and_others_are_answered_meanwhile(client, monkeypatch):
    threads, read = [], routes.read_request

    def noted(*arguments):
        threads.append(threading.get_ident())
        return read(*arguments)

    monkeypatch.setattr(routes, "read_request", noted)
    file = base64.b64encode(png(np.zeros((4, 4), np.uint8))).decode()
    image = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [file]}
    for sent in (tensor(), image):
        assert infer(client, {"inputs": [sent]}).status_code == 200
    assert threads[0] != threads[1]


@pytest.mark.parametrize("key", ["inputs", "id", "shape", "data"])
def test_deep_json_is_refused_like_any_other(client, key):
    deep = "[" * 900 + "]" * 900
    document = json.dumps({"id": "7", "inputs": [tensor()]} | {key: 7} if key in ("inputs", "id")
                          else {"inputs": [tensor() | {key: 7}]})  # fmt: skip
    answer = infer(client, document.replace(f'"{key}": 7', f'"{key}": {deep}').encode())
    assert answer.status_code == 400 and len(answer.text) < 500, answer.text


def test_nan_in_binary_and_lengths_that_lie(client):
    raw = np.full(32, np.nan, np.float32).tobytes()
    head = {"inputs": [tensor(parameters={"binary_data_size": len(raw)})]}
    del head["inputs"][0]["data"]
    text = json.dumps(head).encode()
    length = {"Inference-Header-Content-Length": str(len(text))}
    assert "NaN" in infer(client, text + raw, **length).json()["error"]
    raw = X.tobytes()
    assert "1 bytes more" in infer(client, text + raw + b"\0", **length).json()["error"]
    assert "0..127" in infer(client, text + raw[1:], **length).json()["error"]
    for wrong in ("-1", "x", str(len(text) + 1), "9" * 30):
        answer = infer(client, text, **{"Inference-Header-Content-Length": wrong})
        assert answer.status_code == 400 and wrong in answer.json()["error"]


def test_what_is_too_large(client):
    assert infer(client, {"inputs": [tensor(np.zeros((10, 4, 4, 1)))]}).status_code == 413
    assert infer(client, b" " * 50_001).status_code == 413
    parts = (b" " * 1000 for _ in range(100))  # without a length in the headers
    assert client.post("/v2/models/dense/infer", content=parts).status_code == 413
    answer = infer(client, b"", **{"content-encoding": "gzip"})
    assert answer.status_code == 415 and "gzip" in answer.json()["error"]
    many = jpeg_of_scans(200)
    answer = infer(client, many, **{"content-type": "image/jpeg"})
    assert answer.status_code == 400 and "at most 100 scans, found 2" in answer.json()["error"]
    for side, text in ((101, "found 101 x 101"), (50_000, "2500000000 pixels")):
        answer = infer(client, strangers.bomb(side), **{"content-type": "image/png"})
        assert answer.status_code == 400 and "at most 10000 pixels" in answer.json()["error"]
        assert text in answer.json()["error"]
    damaged = png(np.zeros((4, 4), np.uint8))[:-30]
    assert infer(client, damaged, **{"content-type": "image/png"}).status_code == 400
    answer = client.post("/v2/models/two/infer", content=b"", headers={"content-type": "image/png"})
    assert answer.status_code == 415


def test_which_pixels_decided_is_the_gradient_times_the_input(client):
    pixels = np.random.default_rng(4).integers(0, 256, (4, 4), np.uint8)
    headers = {"content-type": "image/png"}
    path = "/v2/models/dense/versions/{}/explain"
    said = client.post(path.format(1), content=png(pixels), headers=headers).json()
    model = networks.dense()
    x = pixels.astype(np.float32)[None, ..., None] / 255
    label = int(networks.expected(model, (x - 0.5) / 0.25).argmax())
    weights = np.asarray(model.params["w"])[:, label]
    assert (said["class"], said["name"]) == (label, networks.ABOUT["class_names"][label])
    np.testing.assert_allclose(said["data"], x.ravel() / 0.25 * weights, rtol=1e-4, atol=1e-5)
    answer = client.post(path.format(2), content=png(pixels), headers=headers)
    assert answer.status_code == 400 and "in float" in answer.json()["error"]


def test_metrics_count_answers_batches_and_classes(client):
    infer(client, {"inputs": [tensor()]})
    text = client.get("/metrics").text
    assert 'hcjax_requests_total{status="200"}' in text
    assert 'hcjax_latency_seconds_bucket{le="0.5",model="dense",version="1"}' in text
    assert 'hcjax_predictions_total{class_name="ant",model="dense",version="1"}' in text
    assert 'hcjax_batch_size_sum{model="dense",version="1"}' in text


def test_a_drift_score_where_the_file_has_a_reference(tmp_path):
    rng, model = np.random.default_rng(6), networks.dense()
    x = rng.normal(size=(4000, 4, 4, 1)).astype(np.float32)
    features = lambda x: monitor.features(networks.expected(model, x), x)
    known = monitor.reference(features(x[:3000]), classes=3)
    file = networks.write(tmp_path / "a.hcz", model, networks.ABOUT | {"reference": known})
    with testclient.TestClient(app_of(str(file), limits=LIMITS._replace(rows=100))) as client:

        def told(x):
            for some in np.split(x, len(x) // 50):
                body = {"inputs": [tensor(some)]}
                assert client.post("/v2/models/a/infer", json=body).status_code == 200
            lines = [s for s in client.get("/metrics").text.splitlines() if s[:11] == "hcjax_drift"]
            return {name: float(value) for name, value in (s.rsplit(" ", 1) for s in lines)}

        assert not told(x[3000:3050])  # too few to say
        found = told(x[3050:])
        labels = 'model="a",version="1"'
        expected = monitor.drift(known, monitor.count(known, features(x[3000:])))
        for name, each in expected.items():
            score = found[f'hcjax_drift_score{{{labels},feature="{name}"}}']
            np.testing.assert_allclose(score, each.psi, atol=1e-3)
        assert found[f"hcjax_drift_p_value_of_all{{{labels}}}"] > 0.05
        assert found[f"hcjax_drift_examples{{{labels}}}"] == 1000
        found = told(2 * x[:1000])
        assert found[f"hcjax_drift_p_value_of_all{{{labels}}}"] < 1e-6
        assert found[f'hcjax_drift_score{{{labels},feature="input_std"}}'] > 1
        networks.write(file, model)  # without a reference
        client.post("/v2/repository/models/a/load")
        assert "hcjax_drift" not in client.get("/metrics").text


@pytest.mark.parametrize("known", [7, {"class": 7}, {"class": {"edges": [], "counts": [0]}},
                                   {"confidence": {"edges": ["a"], "counts": [1, 2]}}])  # fmt: skip
def test_what_is_no_reference_is_said_when_the_file_is_loaded(tmp_path, known):
    file = networks.write(
        tmp_path / "a.hcz", networks.dense(), networks.ABOUT | {"reference": known}
    )
    with pytest.raises(ConfigError, match="must be one of hcjax"):
        app_of(str(file))


def test_what_waits_for_a_thread_is_late_in_the_end(monkeypatch):
    limits = LIMITS._replace(deadline_seconds=0.2)
    app = app_of(f"dense={folder() / 'dense.hcz'}", limits=limits)
    monkeypatch.setattr(routes, "_LARGE", 0)
    with testclient.TestClient(app) as client:
        assert infer(client, {"inputs": [tensor()]}).status_code == 200
        read = routes.read_request
        monkeypatch.setattr(routes, "read_request", lambda *a: time.sleep(0.3) or read(*a))
        answer = infer(client, {"inputs": [tensor()]})
        assert answer.status_code == 503 and "deadline" in answer.json()["error"]
        assert answer.headers["retry-after"] == "1"


def test_what_is_computed_but_late_is_refused(monkeypatch):
    app = app_of(f"dense={folder() / 'dense.hcz'}", limits=LIMITS._replace(deadline_seconds=0.2))
    batcher = app._app.routes[0].endpoint.__self__._repository.get("dense").batcher
    submit = batcher.submit
    with testclient.TestClient(app) as client:
        assert infer(client, {"inputs": [tensor()]}).status_code == 200
        monkeypatch.setattr(batcher, "submit", lambda x, n, _: time.sleep(0.3) or submit(x, n, 9))
        answer = infer(client, {"inputs": [tensor()]})
        assert answer.status_code == 503 and "could not be answered" in answer.json()["error"]


def test_examples_that_become_too_large_are_refused_before_they_are_made():
    app = app_of(f"dense={folder() / 'dense.hcz'}", limits=LIMITS._replace(queue_bytes=200))
    with testclient.TestClient(app) as client:
        pixels = tensor(np.zeros((4, 4, 4, 1), np.uint8), "UINT8")  # 64 bytes here, 256 as floats
        files = {"name": "images", "datatype": "BYTES", "shape": [4], "data": [""] * 4}
        for each in (pixels, files):
            answer = infer(client, {"inputs": [each]})
            assert answer.status_code == 413 and "200 bytes" in answer.json()["error"]


def test_an_image_without_a_batch_is_no_file():
    for batched in (False, True):
        leaf = interface.Leaf((4, 4, 1), np.dtype("float32"), batched=batched)
        pixels = signature((leaf,), leaf, networks.ABOUT).pixels
        assert (pixels is not None) == batched


@pytest.mark.parametrize("given", [None, "Bearer no", "Bearer é", "secret", "Basic secret"])
def test_a_token_is_asked_for_everywhere_but_for_health_and_the_page(given):
    client = testclient.TestClient(app_of(f"dense={folder() / 'dense.hcz'}", token="secret"))
    headers = {} if given is None else {"authorization": given.encode("latin1")}
    paths = [route.path for route in client.app._app.routes]
    for path in [*paths, "/nothing", "/v2/models/{name}/"]:
        path = path.replace("{name}", "dense").replace("{version}", "1")
        is_open = path in ("/", "/page.js", "/page.css") or path.startswith("/v2/health/")
        for method in ("GET", "POST"):
            status = client.request(method, path, headers=headers).status_code
            assert (status != 401) == is_open, (method, path)
    for scheme in ("Bearer", "bearer"):
        right = {"authorization": f"{scheme} secret"}
        assert client.get("/metrics", headers=right).status_code == 200
    assert (
        client.get("/page.js").headers["content-security-policy"].startswith("default-src 'none'")
    )


def test_a_changed_file_is_loaded_anew_and_a_damaged_one_is_not(tmp_path):
    file = networks.write(tmp_path / "a.hcz", networks.dense())
    app = app_of(str(file))
    with testclient.TestClient(app, raise_server_exceptions=False) as client:
        ask = lambda: client.post("/v2/models/a/infer", json={"inputs": [tensor()]}).json()
        before = ask()["outputs"]
        networks.write(file, networks.dense(seed=5))
        answer = client.post("/v2/repository/models/a/load")
        assert answer.status_code == 200, answer.text
        found = ask()["outputs"][0]["data"]
        np.testing.assert_allclose(
            found, networks.expected(networks.dense(5), X).ravel(), rtol=1e-5
        )
        assert found != before[0]["data"]
        file.write_bytes(b"damaged")
        answer = client.post("/v2/repository/models/a/load")
        assert answer.status_code == 400 and "cannot be loaded" in answer.json()["error"]
        assert ask()["outputs"][0]["data"] == found
        assert client.post("/v2/repository/models/b/load").status_code == 404


def test_who_asks_for_a_load_that_runs_gets_what_it_loads(tmp_path):
    file, paths = networks.write(tmp_path / "a.hcz", networks.dense()), []
    load = lambda path: paths.append(path) or load_any(path)
    repository = Repository([place_of(str(file))], load, "jit", LIMITS, Metrics())
    repository.load_all()

    async def work():
        return await asyncio.gather(*(repository.reload("a") for _ in range(9)))

    found = asyncio.run(work())
    assert len(paths) == 2 and all(each == found[0] for each in found)
    asyncio.run(repository.reload("a"))
    assert len(paths) == 3


def test_images_of_a_request_share_its_pixels_and_bodies_share_memory():
    app = app_of(f"dense={folder() / 'dense.hcz'}", limits=LIMITS._replace(pixels=40))
    with testclient.TestClient(app, raise_server_exceptions=False) as client:
        file = base64.b64encode(png(np.zeros((4, 4), np.uint8))).decode()
        for count, status in ((2, 200), (3, 400)):
            images = {
                "name": "images",
                "datatype": "BYTES",
                "shape": [count],
                "data": [file] * count,
            }
            answer = client.post("/v2/models/dense/infer", json={"inputs": [images]})
            assert answer.status_code == status, answer.text
        assert "at most 8 pixels" in answer.json()["error"]
        # what an example takes, not what it comes in
        routes = app._app.routes[0].endpoint.__self__
        assert routes._held == 0
        routes._held = 4 * LIMITS.body_bytes
        answer = client.post("/v2/models/dense/infer", json={"inputs": [tensor()]})
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
