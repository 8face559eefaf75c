"""Files of ONNX in every form: how far ONNX Runtime's answers are from hcjax's, and its speed.

    python benchmarks/onnx_runtimes.py                      LeNet-5 and ResNet-20 on MNIST
    python benchmarks/onnx_runtimes.py --quick              LeNet-5, few steps and images
    python benchmarks/onnx_runtimes.py --old OLD/bin/python   also in the onnxruntime of that Python

Needs `pip install -e '.[test]'`; an old runtime has an environment of its own, with numpy and
onnxruntime alone, e.g. `python -m venv OLD; OLD/bin/pip install onnxruntime==1.18.0 'numpy<2'`. One
thread; the forms take turns, and times are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# run by the Python of an old runtime, which knows nothing of hcjax
RUN = """
import json, statistics, sys, time
import numpy as np, onnxruntime as ort
folder, rounds = sys.argv[1], int(sys.argv[2])
images = np.load(folder + "/images.npy")
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
print(json.dumps(ort.__version__))
sessions = {}
for form in ("float", "qdq", "exact"):
    try:
        path = folder + "/" + form + ".onnx"
        run = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        print(json.dumps([form, str(error)[:200]]))
        continue
    sessions[form] = run
    parts = [run.run(None, {"images": images[i : i + 100]})[0] for i in range(0, len(images), 100)]
    np.save(folder + "/" + form + ".npy", np.concatenate(parts))
times = {}
for _ in range(rounds):
    for form, run in sessions.items():
        for batch in (1, 128):
            count = 200 // batch + 1
            start = time.perf_counter()
            for _ in range(count):
                run.run(None, {"images": images[:batch]})
            spent = (time.perf_counter() - start) / count / batch
            times.setdefault(form + " " + str(batch), []).append(spent)
print(json.dumps({key: statistics.median(values) for key, values in times.items()}))
"""


def trained(name: str, steps: int):
    """Returns a network trained on MNIST, folded, its integers, and test images and labels."""
    import jax
    import jax.numpy as jnp
    import optax

    import hcjax

    data = hcjax.data.load("mnist", validation=0)
    network = hcjax.models.create(name, input_shape=(28, 28, 1))
    params, state = network.init(jax.random.key(0))
    done = hcjax.fit(
        network.apply, params, data, state=state, loss=hcjax.losses.cross_entropy,
        tx=optax.adam(1e-3), steps=steps, batch_size=128, key=jax.random.key(1), quiet=True,
    )  # fmt: skip
    apply = hcjax.inference(network.apply, done.state)
    model = hcjax.fold(hcjax.trace(apply, done.params, jnp.zeros((1, 28, 28, 1))))

    def normal(x: np.ndarray) -> np.ndarray:
        return ((np.asarray(x) / 255.0 - data.mean) / data.std).astype(np.float32)

    small = hcjax.int8(model, hcjax.calibrate(model, normal(data.train.images[:512])))
    return model, small, normal(data.test.images), np.asarray(data.test.labels)


def answers(model, images) -> np.ndarray:
    """Returns hcjax's logits."""
    import jax

    apply = jax.jit(model.apply)
    parts = [apply(model.params, images[i : i + 100]) for i in range(0, len(images), 100)]
    return np.concatenate([np.asarray(part) for part in parts])


def show(python: str, folder: Path, expected: dict, labels: np.ndarray, rounds: int) -> None:
    """Runs the files in a Python's runtime, and prints what it gave."""
    command = [python, "-c", RUN, str(folder), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    version, *failures, times = map(json.loads, done.stdout.splitlines())
    print(f"  onnxruntime {version}")
    for form, error in failures:
        print(f"    {form:<6} cannot be opened: {error}")
    for form, own in expected.items():
        if any(form == failed for failed, _ in failures):
            continue
        theirs = np.load(folder / f"{form}.npy")
        far = np.abs(theirs - own).max() / np.ptp(own)
        same = (theirs.argmax(1) == own.argmax(1)).mean()
        right = [(x.argmax(1) == labels).mean() for x in (own, theirs)]
        ratio = [times[f"float {n}"] / times[f"{form} {n}"] for n in (1, 128)]
        print(
            f"    {form:<6} equal logits {(theirs == own).mean():8.3%}  farthest {far:.1e} of the "
            f"range  argmax {same:8.3%}  right {right[0]:.2%} -> {right[1]:.2%}  speed of float's "
            f"{ratio[0]:.2f} at 1, {ratio[1]:.2f} at 128"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--old", help="the Python of an environment with an old onnxruntime")
    options = parser.parse_args()
    from hcjax.export.onnx import onnx

    networks = {"lenet5": 60} if options.quick else {"lenet5": 400, "resnet20": 300}
    for name, steps in networks.items():
        model, small, images, labels = trained(name, steps)
        count = 200 if options.quick else 10_000 if name == "lenet5" else 1_000
        images, labels = images[:count], labels[:count]
        print(f"{name}, {count:,} images of the test set")
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            np.save(folder / "images.npy", images)
            forms = {"float": model, "qdq": small, "exact": small}
            for form, each in forms.items():
                (folder / f"{form}.onnx").write_bytes(onnx(each, form=form))
            expected = {"float": answers(model, images), "qdq": answers(small, images)}
            expected["exact"] = expected["qdq"]
            for python in (sys.executable, options.old):
                if python:
                    show(python, folder, expected, labels, 3 if options.quick else 7)


if __name__ == "__main__":
    main()
