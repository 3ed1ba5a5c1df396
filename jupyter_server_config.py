"""A Jupyter server that runs nothing outside sandboxes: the worked example for operators.

Start it with `jupyter lab --config=jupyter_server_config.py`. Every setting that matters for isolation is here once,
with its reason; tests run with this file. Settings of the host side (engine, disks, limits) belong to the broker, in
`jupyter_sandbox_config.py`: see `jupyter sandbox broker --help-all`.
"""

c = get_config()  # noqa: F821 - given by Jupyter

# -- Only sandboxes -------------------------------------------------------------------------------------------------

# Refuse to start while one of the ways round the sandbox below is open.
c.SandboxExtension.exclusive = True

# Jupyter goes on without an extension that cannot be set up, because of a wrong setting for example: without ours it
# would run on the host what it is asked to.
c.ServerApp.reraise_server_extension_failures = True

# Stock Jupyter starts any kernelspec whose name a client knows, the native Python kernel first of all. This one knows
# sandbox kernels only.
c.ServerApp.kernel_spec_manager_class = "jupyter_sandbox.kernel_specs.SandboxKernelSpecManager"
c.MultiKernelManager.default_kernel_name = "sandbox-python"

# A terminal is a shell on the host.
c.ServerApp.terminals_enabled = False
c.ServerApp.jpserver_extensions = {"jupyter_sandbox": True, "jupyterlab": True, "jupyter_server_terminals": False}

# -- The person in front of it --------------------------------------------------------------------------------------

# On this machine only. For others put a proxy with TLS in front.
c.ServerApp.ip = "localhost"
c.ServerApp.open_browser = False
c.ServerApp.allow_unauthenticated_access = False

# Output of a notebook is HTML in the same origin as the server: do not let another site frame or read it.
c.ServerApp.allow_origin = ""
c.IdentityProvider.cookie_options = {"samesite": "Strict", "httponly": True}

# -- Programs, each with a token of its own -------------------------------------------------------------------------

# Jupyter's token and password as before, and tokens that `jupyter sandbox token create` issues to owners. They open
# sandboxes and kernels of their owner, and nothing else of this server.
c.ServerApp.identity_provider_class = "jupyter_sandbox.identity.SandboxIdentityProvider"

# Scopes and rates of tokens; owners do not find each other's kernels and sessions.
c.ServerApp.authorizer_class = "jupyter_sandbox.authorizer.OwnerAuthorizer"

# What an owner may hold, and how often it may ask. Not for who logs in with the server's own token.
c.Quotas.sandboxes = 20
c.Quotas.contexts = 100
c.Quotas.file_mib = 16_384
c.Rates.reads_per_minute = 6_000
c.Rates.writes_per_minute = 1_200
c.Rates.executions_per_minute = 3_000

# -- Kernels --------------------------------------------------------------------------------------------------------

# A kernel that nobody used for an hour goes, and its sandbox with it.
c.MappingKernelManager.cull_idle_timeout = 3600
c.MappingKernelManager.cull_interval = 300

# What the server holds of a sandbox's output, MiB: one message; for a browser that reads slowly; for a closed tab. The
# code in the sandbox cannot change it.
c.SandboxExtension.max_message_mib = 8
c.SandboxExtension.max_unsent_mib = 4
c.SandboxExtension.max_offline_mib = 16

# How the notebook's directory shows in a sandbox: `overlay` reads the real files and writes to the sandbox's own disk.
c.SandboxProvisioner.workspace = "overlay"

# -- What is told ---------------------------------------------------------------------------------------------------

# Logs for machines: a line of JSON for each record and each request. No token is readable in them, so set one.
# c.SandboxExtension.json_logs = True

# Who ran what, when and where, how it ended, what was refused: a line of JSON for each event.
# import logging.handlers
# c.EventLogger.handlers = [logging.handlers.WatchedFileHandler("/var/log/jupyter/audit.jsonl")]

# -- Programs over REST (/api/sandboxes) ----------------------------------------------------------------------------

# A sandbox that a program forgot goes after a quarter of an hour; none lives longer than a day unless it is renewed.
c.SandboxExtension.sandbox_timeout_s = 900
c.SandboxExtension.max_sandbox_timeout_s = 86_400

# An execution is interrupted after a minute unless it asks for more, and has its end after an hour in any case.
c.SandboxExtension.execution_timeout_s = 60
c.SandboxExtension.max_execution_timeout_s = 3_600
c.SandboxExtension.max_output_mib = 8
c.SandboxExtension.max_waiting_executions = 16
c.SandboxExtension.max_commands = 32

# -- Programs of RAGFlow (/ragflow) ---------------------------------------------------------------------------------

# Each runs in a sandbox of its own and is killed after so long; RAGFlow must wait a few seconds longer.
c.RagflowExecutor.timeout_s = 10
c.RagflowExecutor.template = "python"
