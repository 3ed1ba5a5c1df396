"""The thin edge to the operating system: sockets, processes, places. No rule about sandboxes lives here."""
