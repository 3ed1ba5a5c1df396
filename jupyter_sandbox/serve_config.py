"""The configuration of `jupyter sandbox serve`: a Jupyter server that runs nothing outside sandboxes.

What the command line says comes after it. Of other configuration only what is for all of Jupyter is read, before it.
"""

import os

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - given by Jupyter

c.SandboxExtension.exclusive = True
c.ServerApp.reraise_server_extension_failures = True  # or Jupyter would go on without the extension
c.ServerApp.kernel_spec_manager_class = "jupyter_sandbox.kernel_specs.SandboxKernelSpecManager"
c.MultiKernelManager.default_kernel_name = "sandbox-python"
c.ServerApp.terminals_enabled = False
c.ServerApp.jpserver_extensions = {"jupyter_sandbox": True, "jupyter_server_terminals": False}
c.ServerApp.identity_provider_class = "jupyter_sandbox.identity.SandboxIdentityProvider"
c.ServerApp.authorizer_class = "jupyter_sandbox.authorizer.OwnerAuthorizer"

c.ServerApp.open_browser = False
c.ServerApp.port_retries = 0  # who asked for a port wants that one
c.ServerApp.answer_yes = True  # Ctrl-C asks nothing
c.ServerApp.allow_unauthenticated_access = False
c.IdentityProvider.cookie_options = {"samesite": "Strict", "httponly": True}
c.IdentityProvider.token = os.environ["JUPYTER_TOKEN"]  # whatever was configured for all of Jupyter
