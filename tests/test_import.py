"""What importing hcjax does, and does not do."""

import subprocess
import sys

from tests.tiny import ROOT

# heavy, or needed by some runs only: imported inside the functions that need them
LATE = (
    "tensorflow", "tensorflow_datasets", "grain", "PIL", "matplotlib", "tensorboardX", "orbax",
    "flax", "tqdm",
)  # fmt: skip

PROGRAM = f"""
import pkgutil, sys
import hcjax
found = [name for name in {LATE} if name in sys.modules]
assert not found, f"imported at once: {{found}}"
for module in pkgutil.walk_packages(hcjax.__path__, "hcjax."):
    __import__(module.name)
assert "tensorflow" not in sys.modules
print(len(hcjax.__all__))
"""


def run_python(program, environment):
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_import_starts_no_device_and_loads_no_heavy_library():
    # jax would fail at the first thing that needs a device: there is no such platform
    done = run_python(PROGRAM, {"PATH": "", "JAX_PLATFORMS": "nowhere"})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


def test_the_platform_nowhere_fails_where_a_device_is_needed():
    done = run_python("import jax; jax.devices()", {"PATH": "", "JAX_PLATFORMS": "nowhere"})
    assert done.returncode != 0 and "nowhere" in done.stderr
