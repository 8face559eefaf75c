"""Ships the folder `configs` in the wheel, as `hcjax/_configs`; all else is in pyproject.toml."""

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConfigs(build_py):
    """Adds the configs, which stand beside the package in a checkout, to what is built."""

    def finalize_options(self):
        super().finalize_options()
        self.packages = [*self.packages, "hcjax._configs"]
        self.package_dir = {**self.package_dir, "hcjax._configs": "configs"}


setup(cmdclass={"build_py": WithConfigs})
