"""Runs inside the notebooks' environment and executes one notebook, as a user's script would.

Usage: execute_with_nbclient.py SOURCE TARGET KERNEL_NAME CELL_TIMEOUT_S
"""

import sys

import nbclient
import nbformat


def main(source: str, target: str, kernel_name: str, cell_timeout_s: str) -> None:
    """Execute SOURCE with KERNEL_NAME and write TARGET."""
    notebook = nbformat.read(source, as_version=4)
    nbclient.NotebookClient(notebook, kernel_name=kernel_name, timeout=int(cell_timeout_s)).execute()
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
