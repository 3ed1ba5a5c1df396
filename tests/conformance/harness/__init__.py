"""Conformance: foreign test suites and notebooks, run unchanged, on the stock provisioner and on ours.

Standard library only: it runs before anything is installed, and nothing here imports the project.
"""
