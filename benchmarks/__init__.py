"""Benchmarks of Jupyter kernels through a real server; see README.md and `python -m benchmarks --help`."""
