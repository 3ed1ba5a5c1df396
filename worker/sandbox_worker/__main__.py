"""What a container runs: `python -P -m sandbox_worker [MODULE ...]`. It makes its start quick, and is `container` then.

A container loads everything by itself, which is most of its start. Garbage is not looked for meanwhile, since there is
next to none; and the code of its modules comes out of one file.
"""

from __future__ import annotations

import gc
import sys
import traceback

from sandbox_worker import bundle


def main() -> None:
    """Prepare and serve; ends with the container."""
    gc.disable()
    with bundle.used(bundle.OF_THE_IMAGE) as modules:
        from sandbox_worker import container

        agent = container.prepared(sys.argv[1:], modules)
    gc.freeze()
    gc.enable()
    agent.serve()


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        raise
