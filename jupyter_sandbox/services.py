"""The services of one server, as surfaces get them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_sandbox.commands import Commands
    from jupyter_sandbox.contexts import Contexts
    from jupyter_sandbox.events import Emit
    from jupyter_sandbox.executions import Executions
    from jupyter_sandbox.file_transfers import FileTransfers
    from jupyter_sandbox.file_watches import FileWatches
    from jupyter_sandbox.files import Files
    from jupyter_sandbox.kept_watches import KeptWatches
    from jupyter_sandbox.named_sandboxes import NamedSandboxes
    from jupyter_sandbox.sandbox_tokens import SandboxTokens
    from jupyter_sandbox.sandboxes import Sandboxes


@dataclass(frozen=True, kw_only=True)
class Services:
    """All of them."""

    sandboxes: Sandboxes
    contexts: Contexts
    executions: Executions
    named: NamedSandboxes
    commands: Commands
    files: Files
    transfers: FileTransfers
    watches: FileWatches
    kept_watches: KeptWatches
    tokens: SandboxTokens | None
    """None: the server takes no tokens."""
    emit: Emit
    """Where is told what no service of these does."""
