"""Trains, or looks at, a network: `python launch.py --config=configs/lenet.py`. No logic here."""

import time

STARTED = time.perf_counter()

import sys  # noqa: E402

from hcjax.app import cli  # noqa: E402

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv, started=STARTED))
