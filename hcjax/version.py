"""The version of hcjax; here, so that building a package imports nothing else."""

VERSION = "0.1.0"
