"""What is done to a container engine is tested once: where the engine `docker` is."""

import os

from jupyter_sandbox.broker.app import ENGINE_VARIABLE

collect_ignore = [] if os.environ.get(ENGINE_VARIABLE) == "docker" else ["test_dockerd.py"]
