"""Digits for the page: how they are drawn, and networks that know them.

`python -m tests.serve.page docs/images/serve.png` takes the picture of the docs.
"""

import math
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import hcjax
from tests.serve import browser, networks


def _arc(x, y, radius, start, end, steps=14):
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


# digit -> lines in a square of side 1
DRAWN = {
    0: [_arc(0.5, 0.5, 0.28, 0, 360, 30)],
    1: [[(0.55, 0.2), (0.48, 0.8)]],
    3: [_arc(0.48, 0.33, 0.16, -150, 90) + _arc(0.48, 0.65, 0.17, -90, 150)],
    7: [[(0.28, 0.25), (0.7, 0.25), (0.45, 0.82)]],
}


def digits(place, *, steps=400, shrunk=False):
    """Trains a network for seconds; returns arguments that name it in float and in integers.

    shrunk: also with a quarter of the products.
    """
    data = hcjax.data.load("mnist")
    network = hcjax.models.create("lenet5", num_classes=10, input_shape=(28, 28, 1))
    params, state = network.init(jax.random.key(0))
    done = hcjax.fit(network.apply, params, data, state=state, tx=optax.adam(1e-3), steps=steps,
                     batch_size=64, key=jax.random.key(0), quiet=True)  # fmt: skip
    some = jnp.asarray(hcjax.data.normalise(data.train.images[:256], data.mean, data.std))
    apply = hcjax.inference(network.apply, done.state)
    model = hcjax.fold(hcjax.trace(apply, done.params, some[:1]))
    about = {"class_names": list(data.class_names), "mean": data.mean.tolist(),
             "std": data.std.tolist()}  # fmt: skip
    whole = hcjax.int8(model, hcjax.calibrate(model, some))
    files = {"float": model, "int8": whole}
    if shrunk:
        small = hcjax.prune.refit(hcjax.shrink(model, macs=0.25, images=some), model, some)
        files["shrunk"] = hcjax.int8(small, hcjax.calibrate(small, some))
    return [f"{k}={networks.write(place / f'{k}.hcz', m, about)}" for k, m in files.items()]


def main(path):
    """Takes the picture: a three is drawn, and which pixels decided is shown."""
    with tempfile.TemporaryDirectory() as place:
        files = digits(Path(place), steps=1500, shrunk=True)
        with networks.Server(*files) as server, browser.Browser(1040, 620) as window:
            window.open(server.url)
            window.wait("return document.querySelectorAll('article').length == 3")
            window.draw(DRAWN[3][0])
            window.wait("return document.querySelectorAll('li.best').length == 3")
            window.run("document.getElementById('why').click()")
            window.wait("return !document.getElementById('legend').hidden")
            Path(path).write_bytes(window.picture())
            print(window.run("return document.getElementById('answers').innerText"))


if __name__ == "__main__":
    main(sys.argv[1])
