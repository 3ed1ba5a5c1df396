"""What runs inside a worker: the zygote that forks workers, the agent that is pid 1, and the kernels.

A package of its own, because it is loaded where nobody is trusted: it imports the standard library, ipykernel with what
that needs, and nothing of `jupyter_sandbox`.
"""
