"""`jupyter sandbox token`: an operator issues tokens to owners, lists and revokes them. It needs no server."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from jupyter_sandbox import token_file, tokens
from jupyter_sandbox.errors import CapacityError, InvalidRequestError, UnknownTokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from jupyter_sandbox.tokens import Token

_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,4})([mhdw])")
_DEFAULT_SCOPES: Final = ("sandboxes", "kernels", "files")
_EPILOG: Final = """\
A server takes tokens when its configuration says

  c.ServerApp.identity_provider_class = "jupyter_sandbox.identity.SandboxIdentityProvider"
  c.ServerApp.authorizer_class = "jupyter_sandbox.authorizer.OwnerAuthorizer"

and when its user owns the file of tokens. A new or revoked token counts within a second or two, without a restart.
Clients send `Authorization: token TOKEN`. Tokens are stored hashed: a lost one cannot be shown again, only replaced.
"""
_CREATE_EPILOG: Final = """\
scopes:
  sandboxes        list, claim, renew and release sandboxes, issue tokens that reach one of them
  kernels          contexts and executions; of Jupyter's own API kernels, sessions and their events
  files            files of sandboxes; never those of the server
  ...:read         only look

The token is all that is printed on standard output: TOKEN=$(jupyter sandbox token create --owner alice)
"""


def add(commands: Any) -> None:
    """Add the command to `commands` of the command line."""
    summary = "Issue, list and revoke tokens, with which programs are owners of sandboxes over REST."
    raw = argparse.RawDescriptionHelpFormatter
    token = commands.add_parser("token", help=summary, description=summary, epilog=_EPILOG, formatter_class=raw)
    actions = token.add_subparsers(dest="action", required=True, metavar="ACTION")

    action = _action(actions, "create", _create, "Issue a token to an owner, and print it this once.", _CREATE_EPILOG)
    action.add_argument(
        "--owner", required=True, metavar="NAME", help="whose sandboxes it reaches; a Jupyter user's name, or a new one"
    )
    action.add_argument(
        "--scope",
        action="append",
        choices=list(tokens.SCOPES),
        metavar="SCOPE",
        help="what it may do, see below; more than once if need be (default: sandboxes, kernels and files)",
    )
    action.add_argument(
        "--expires",
        type=_expiry,
        default="30d",
        metavar="WHEN",
        help="after how long, as 90m, 12h, 30d or 8w; or when, as 2030-12-31; or `never` (default: %(default)s)",
    )

    action = _action(actions, "list", _list, "Show the tokens that there are, without their secrets.")
    action.add_argument("--owner", metavar="NAME", help="only those of this owner")
    action.add_argument("--json", action="store_true", help="print JSON instead of a table")

    action = _action(actions, "revoke", _revoke, "End tokens; who is connected with one is hung up on.")
    action.add_argument("id", nargs="*", metavar="ID", help="ids as shown by `list`")
    action.add_argument("--owner", metavar="NAME", help="all tokens of this owner")
    action.add_argument("--expired", action="store_true", help="forget all tokens whose time is over")


def _action(
    actions: Any,
    name: str,
    run: Callable[[argparse.Namespace], Coroutine[Any, Any, int]],
    summary: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = actions.add_parser(name, help=summary, description=summary, epilog=epilog, formatter_class=raw)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--file",
        type=Path,
        default=token_file.default_path(),
        help="the file of tokens, OwnerTokens.token_file of the server (default: %(default)s)",
    )
    return cast("argparse.ArgumentParser", parser)


async def _create(options: argparse.Namespace) -> int:
    token_id, text, digest = tokens.mint()
    token = tokens.Token(
        id=token_id,
        owner=tokens.owner_name(options.owner),
        scopes=tuple(dict.fromkeys(options.scope or _DEFAULT_SCOPES)),
        created_at=datetime.now(UTC).replace(microsecond=0),
        expires_at=options.expires,
        digest=digest,
    )

    def added(stored: tuple[Token, ...]) -> tuple[Token, ...]:
        if len(stored) >= tokens.MAX_TOKENS:
            raise CapacityError(f"there are {tokens.MAX_TOKENS} tokens; `revoke --expired` forgets those that are over")
        return (*stored, token)

    await _change(options, added)
    print(text)
    until = "until it is revoked" if token.expires_at is None else f"until {_shown(token.expires_at)}"
    print(f"{token.id} of {token.owner}: {', '.join(token.scopes)}, {until}. It is not shown again.", file=sys.stderr)
    return 0


async def _list(options: argparse.Namespace) -> int:
    stored = await asyncio.to_thread(token_file.TokenFile(options.file).read)
    rows = _of(options.owner, stored) if options.owner is not None else stored
    now = datetime.now(UTC)
    if options.json:
        shown = json.loads(tokens.encode(rows))["tokens"]
        print(json.dumps([{name: row[name] for name in row if name != "sha256"} for row in shown], indent=2))
        return 0
    if not rows:
        print("No tokens.")
        return 0
    print(f"{'ID':26}{'OWNER':20}{'CREATED':18}{'EXPIRES':18}SCOPES")
    for token in rows:
        expires = "never" if token.expires_at is None else "expired" if token.is_over(now) else _shown(token.expires_at)
        print(f"{token.id:26}{token.owner:20}{_shown(token.created_at):18}{expires:18}{', '.join(token.scopes)}")
    return 0


async def _revoke(options: argparse.Namespace) -> int:
    if bool(options.id) + (options.owner is not None) + options.expired != 1:
        print("jupyter sandbox token revoke: name tokens, or use --owner or --expired", file=sys.stderr)
        return 2
    gone: list[Token] = []

    def rest(stored: tuple[Token, ...]) -> tuple[Token, ...]:
        unknown = set(options.id) - {token.id for token in stored}
        if unknown:
            raise UnknownTokenError(f"no token {min(unknown)[:60]!a}; nothing was revoked")
        now = datetime.now(UTC)
        if options.owner is not None:
            gone.extend(_of(options.owner, stored))
        else:
            gone.extend(token for token in stored if token.id in options.id or (options.expired and token.is_over(now)))
        return tuple(token for token in stored if token not in gone)

    await _change(options, rest)
    for token in gone:
        print(f"{token.id} of {token.owner} revoked")
    return 0


async def _change(options: argparse.Namespace, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
    await asyncio.to_thread(token_file.TokenFile(options.file).change, change)


def _of(owner: str, stored: Iterable[Token]) -> tuple[Token, ...]:
    found = tuple(token for token in stored if token.owner == owner)
    if not found:
        known = ", ".join(sorted({token.owner for token in stored})[:20]) or "none"
        raise InvalidRequestError(f"no owner {owner[:60]!a} has a token; owners that have: {known}")
    return found


def _expiry(text: str) -> datetime | None:
    now = datetime.now(UTC).replace(microsecond=0)
    if text == "never":
        return None
    if duration := _DURATION.fullmatch(text):
        return now + int(duration[1]) * _UNITS[duration[2]]
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!a} is no time: 90m, 12h, 30d, 8w, 2030-12-31 or never") from None
    if moment <= now:
        raise argparse.ArgumentTypeError(f"{text} is over")
    return moment


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%MZ")
