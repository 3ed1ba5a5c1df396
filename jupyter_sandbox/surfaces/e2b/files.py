"""Files of a sandbox: `GET` and `POST /files`, with the sandbox's token, or a signature that was made with it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.auth.decorator import allow_unauthenticated

from jupyter_sandbox.errors import InvalidRequestError, NotSupportedError
from jupyter_sandbox.surfaces.e2b import forms, gzips, words
from jupyter_sandbox.surfaces.e2b.data import DataHandler
from jupyter_sandbox.surfaces.e2b.domain import ID_HEADER
from jupyter_sandbox.web import FILE, encoded

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from jupyter_sandbox.files import Publish
    from jupyter_sandbox.incoming import Incoming
    from jupyter_sandbox.surfaces.e2b.held import Held

_MAX_DIGITS: Final = 12
_GZIP: Final = "gzip"
_METADATA: Final = "x-metadata-"
_STATUS: Final = {"file_conflict": 400, "file_refused": 400}


class FilesHandler(DataHandler):
    """One file, or several in one upload."""

    operation = "transfer_file"
    _signed: Held | None = None
    """The sandbox with whose token the URL was signed, which may be paused."""

    def file_limit(self) -> int | None:
        """See ServiceHandler: a body that is one file, or several, of somebody who may write them."""
        if self.request.method != "POST" or self.held is None:
            return None
        return {FILE: self.services.files.max_file_mib << 20, forms.KIND: self._form_limit()}.get(self._kind())

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Begin to write before the body has come, if it is a file."""
        await super().prepare()
        if self.incoming is not None and not self._finished:
            self.when_gone(self.incoming.begin(self.serve(())).cancel)

    @allow_unauthenticated
    async def post(self, *ids: str) -> None:
        """Serve."""
        if self.incoming is None:
            await self.serve(ids)
        else:
            await self.incoming.served()

    def user(self) -> str:
        """See DataHandler; of files a URL may say it."""
        return self.get_query_argument("username", "") or super().user()

    def meant(self) -> Held | None:
        """See DataHandler; a signed URL that names no sandbox is tried on every one's token."""
        if not self._is_signed():
            return super().meant()
        named = self.request.headers.get(ID_HEADER)
        known = (each for each in self.surface.all_held() if named in (None, words.sandbox_id(each.sandbox_id)))
        self._signed = next((each for each in known if self.shows_token(each)), None)
        return None if self._signed is None else self.surface.find(self._signed.sandbox_id)

    def refuse_stranger(self, held: Held | None) -> None:
        """See DataHandler; who brings no good signature is not told which sandboxes there are."""
        is_named = ID_HEADER in self.request.headers
        if self._signed in self.surface.all_held() or (is_named and not self._is_signed()):
            super().refuse_stranger(held)
            return
        self.set_header("Cache-Control", "no-store")
        self.set_status(401)
        self.finish(encoded({"code": 401, "message": "the URL's signature is missing or wrong, or its time is over"}))

    def _is_signed(self) -> bool:
        return "signature" in self.request.query_arguments

    def shows_token(self, held: Held) -> bool:
        """See DataHandler."""
        given = self.get_query_argument("signature", "")
        if not given:
            return super().shows_token(held)
        ends = self.get_query_argument("signature_expiration", "")
        what = "read" if self.request.method == "GET" else "write"
        path, user = self.get_query_argument("path", "", strip=False), self.get_query_argument("username", "")
        right = signature(held.token, path, what, user, ends)
        in_time = not ends or (
            len(ends) < _MAX_DIGITS and ends.isascii() and ends.isdigit() and int(ends) >= datetime.now(UTC).timestamp()
        )
        return hmac.compare_digest(right.encode(), given.encode("utf-8", "replace")) and in_time

    def refuse(self, error: Any, status: int | None = None) -> None:
        """See ServiceHandler."""
        super().refuse(error, status or _STATUS.get(error.code))

    async def on_get(self) -> None:
        """Send a file; packed to who takes gzip only: where nothing is far it costs more than it saves."""
        await self.require("contents", "read")
        path = words.disk_path(self.get_query_argument("path", "", strip=False))
        is_packed = self.request.headers.get("Accept-Encoding", "").strip().lower() == _GZIP
        async with self.services.files.reading(self.box.sandbox_id, path) as reading:
            await self.send_file(
                gzips.packed(reading) if is_packed else reading,
                name=reading.entry.name,
                start=0,
                size=reading.size,
                total=reading.entry.size_bytes,
                is_part=False,
                coding=_GZIP if is_packed else None,
            )

    async def on_post(self) -> None:
        """Write one file, which is the body, or the parts of a form named `file`.

        The query or a part's file name says where.
        """
        await self.require("contents", "write")
        if any(name.lower().startswith(_METADATA) for name in self.request.headers):
            raise NotSupportedError("metadata of files is not supported here; write the file without")
        kind, coding = self._kind(), self.request.headers.get("Content-Encoding", "identity").strip().lower()
        if self.incoming is None:
            raise InvalidRequestError(f"files come as {FILE} or {forms.KIND}")
        if coding not in ("identity", _GZIP) or (coding == _GZIP and kind != FILE):
            raise InvalidRequestError(f"only a body that is {FILE} may be packed, and with gzip")
        path = self.get_query_argument("path", "", strip=False)
        async with contextlib.AsyncExitStack() as undo:
            if kind == forms.KIND:
                drafts = await self._drafts(undo, path, self.incoming)
            elif coding == _GZIP:
                unpacked = await undo.enter_async_context(contextlib.aclosing(gzips.unpacked(self.incoming)))
                drafts = [await self._draft(undo, path, unpacked)]
            else:
                drafts = [await self._draft(undo, path, self.incoming)]
            written = [
                {"path": words.their_path(ours), "name": (await publish()).name, "type": "file"}
                for ours, publish in drafts
            ]
        self.answer(200, written)

    async def _drafts(
        self, undo: contextlib.AsyncExitStack, path: str, incoming: Incoming
    ) -> list[tuple[str, Publish]]:
        """Write the files of a form, all of them before the first has its name."""
        form = forms.Form(self.request.headers["Content-Type"], incoming, self._form_limit())
        found: list[tuple[str, Publish]] = []
        async with contextlib.aclosing(form.parts()) as parts:
            async for part in parts:
                if part.name != "file":
                    continue
                if path and found:
                    raise InvalidRequestError("`path` names one file, and there are several")
                undo.enter_context(self.surface.drafting(self.box.owner))
                found.append(await self._draft(undo, path or part.file_name, form.content()))
        if not found:
            raise InvalidRequestError("there is no part named `file`")
        return found

    async def _draft(
        self, undo: contextlib.AsyncExitStack, path: str, content: AsyncIterable[bytes]
    ) -> tuple[str, Publish]:
        ours = words.disk_path(path)
        return ours, await self.services.files.draft(undo, self.box.sandbox_id, ours, content, parents=True)

    def _kind(self) -> str:
        return self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def _form_limit(self) -> int:
        return self.services.transfers.max_batch_mib << 20


def signature(token: str, path: str, what: str, user: str, ends: str) -> str:
    """Return what SDKs sign a URL with; `ends` is a moment in seconds, or empty."""
    text = f"{path}:{what}:{user}:{token}" + (f":{ends}" if ends else "")
    return "v1_" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
