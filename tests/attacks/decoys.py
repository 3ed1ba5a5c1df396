"""A decoy: listens on every address of the network namespace it runs in and tells what arrived. Harmless by itself.

    nsenter --net=... python decoys.py INTERFACE PORT...

Opens TCP and UDP listeners, IPv4 and IPv6, on each port, and a packet socket on INTERFACE. Says `ready`; answers each
line on standard input with what it has seen since the last: JSON with `packets` (IP packets that arrived on INTERFACE,
as [source, target, protocol, target port], neighbour discovery left out), `connections` and `datagrams` (by port).
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import json
import selectors
import socket
import sys

_INCOMING = (0, 1, 2)  # to us, broadcast, multicast; packet(7)
IP_PKTINFO = 8
_PORTS = {6: "tcp", 17: "udp"}
_DISCOVERY = (*range(130, 138), 143)  # multicast listeners, routers, neighbours: what a wire's other end says by itself


def describe(frame: bytes) -> list | None:
    """Return [source, target, protocol, port] of an Ethernet frame with IP in it."""
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\x08\x00":
        header = (packet[0] & 15) * 4
        number, source, target = packet[9], packet[12:16], packet[16:20]
    elif kind == b"\x86\xdd":
        header, number, source, target = 40, packet[6], packet[8:24], packet[24:40]
        if number == 0:  # hop-by-hop: multicast listener reports
            number, header = packet[40], 48
        if number == 58 and packet[header] in _DISCOVERY:
            return None
    else:
        return None
    port = int.from_bytes(packet[header + 2 : header + 4], "big") if number in _PORTS else 0
    addresses = [str(ipaddress.ip_address(bytes(address))) for address in (source, target)]
    return [*addresses, _PORTS.get(number, str(number)), port]


class Decoy:
    def __init__(self, interface: str, ports: list[int]) -> None:
        self.selector = selectors.DefaultSelector()
        self.clear()
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sniffer.bind((interface, 0))
        self.watch(sniffer, lambda: self.sniff(sniffer))
        for port in ports:
            for family in (socket.AF_INET, socket.AF_INET6):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    self.listen(family, kind, port)

    def clear(self) -> None:
        self.packets: list[list] = []
        self.connections: collections.Counter[int] = collections.Counter()
        self.datagrams: collections.Counter[int] = collections.Counter()

    def watch(self, channel: socket.socket, handler) -> None:
        channel.setblocking(False)
        self.selector.register(channel, selectors.EVENT_READ, handler)

    def listen(self, family: int, kind: int, port: int) -> None:
        channel = socket.socket(family, kind)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        channel.bind(("" if family == socket.AF_INET else "::", port))
        if kind == socket.SOCK_STREAM:
            channel.listen(64)
            self.watch(channel, lambda: self.accept(channel, port))
        else:
            for level, option in ((socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)):
                with contextlib.suppress(OSError):
                    channel.setsockopt(level, option, 1)
            self.watch(channel, lambda: self.answer(channel, port))

    def accept(self, channel: socket.socket, port: int) -> None:
        connection, _ = channel.accept()
        self.connections[port] += 1
        connection.send(b"hello")
        connection.close()

    def answer(self, channel: socket.socket, port: int) -> None:
        """Answer from the address that was asked, whichever of ours it was: ip(7), ipv6(7)."""
        data, messages, _, address = channel.recvmsg(2048, 256)
        self.datagrams[port] += 1
        for level, kind, value in messages:
            if level == socket.IPPROTO_IP:
                channel.sendmsg([b"echo " + data[:100]], [(level, kind, bytes(4) + value[8:12] + bytes(4))], 0, address)
            else:
                channel.sendmsg([b"echo " + data[:100]], [(level, kind, value[:16] + bytes(4))], 0, address)

    def sniff(self, sniffer: socket.socket) -> None:
        frame, address = sniffer.recvfrom(65536)
        seen = describe(frame) if address[2] in _INCOMING else None
        if seen:
            self.packets.append(seen)

    def handle(self, events) -> None:
        for key, _ in events:
            if key.data:
                with contextlib.suppress(OSError):  # whom we would answer has gone, or never was
                    key.data()

    def serve(self) -> None:
        self.selector.register(sys.stdin, selectors.EVENT_READ, None)
        print("ready", flush=True)
        while True:
            events = self.selector.select()
            self.handle(events)
            if any(key.data is None for key, _ in events):
                if not sys.stdin.readline():
                    return
                while events := self.selector.select(0.1):  # what is still in the queues
                    self.handle(events)
                report = {"packets": self.packets, "connections": self.connections, "datagrams": self.datagrams}
                print(json.dumps(report), flush=True)
                self.clear()


if __name__ == "__main__":
    Decoy(sys.argv[1], [int(port) for port in sys.argv[2:]]).serve()
