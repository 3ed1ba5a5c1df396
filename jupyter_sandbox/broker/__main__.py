"""`python -m jupyter_sandbox.broker`."""

from jupyter_sandbox.broker.app import main

main()
