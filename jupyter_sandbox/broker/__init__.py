"""The broker: the only process with privileges. It owns workers, their disks and sockets, and serves fixed verbs.

`verbs` what may be asked · `registry` the sandboxes and their lives · `server` connections and leases · `app` the
process · `client` the other end, used by provisioner and command line.
"""
