"""What stands between clients and a broker, so that this dies at a certain message and not at some moment."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

from jupyter_sandbox.host import places

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST = 1 << 16


class Relay:
    """In the place of a broker's socket; passes no descriptors on."""

    def __init__(self, message: str, number: int, then: Callable[[], object]) -> None:
        """Call `then` at the message of that type with that number, counted from 1, and hang up on everybody.

        The message is not passed on, and who comes from then on finds no broker until the next one takes the place.
        """
        self._message, self._left, self._then = message, number, then
        self._counting = threading.Lock()
        path = places.find().socket
        self._broker = path.with_name("relayed")
        path.rename(self._broker)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._connections = [self._listener]
        self._threads: list[threading.Thread] = []
        self._begin(self._serve)

    async def has_acted(self) -> bool:
        """Whether that message came."""
        return self._left <= 0

    def close(self) -> None:
        """Hang up on everybody, and give everything back."""
        for thread in self._threads:  # the first one may have let somebody in just now
            self._hang_up()
            thread.join()
        for each in self._connections:
            each.close()

    def _hang_up(self) -> None:
        for each in list(self._connections):
            _end(each)

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                broker = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._connections += [client, broker]
                broker.connect(str(self._broker))
                self._begin(self._pass, client, broker, True)
                self._begin(self._pass, broker, client, False)
        self._listener.close()  # with those in its queue
        self._hang_up()

    def _pass(self, source: socket.socket, target: socket.socket, is_counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_LARGEST):
                if is_counted and json.loads(data)["type"] == self._message and self._is_the_one():
                    self._then()
                    self._hang_up()
                    return
                target.send(data)
        _end(source)
        _end(target)

    def _is_the_one(self) -> bool:
        with self._counting:
            self._left -= 1
            return self._left == 0


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
