"""E2B's protocols, as its SDKs speak them: sandboxes, files, processes, directories and code of a sandbox.

The control plane is at `/e2b`, the data plane of all sandboxes at `/e2b/sbx`, where headers say which one is meant.
"""
