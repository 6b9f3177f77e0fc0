"""Under which names the local server answers: a page elsewhere whose name was made to point here is refused."""

from __future__ import annotations

import ipaddress
import re
import socket

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z_.-]+)(?::[0-9]{1,5})?")
"""A Host header: name or number, and perhaps a port, which does not count: the page may be reached by a tunnel."""


class Hosts:
    """The names of a server that listens on an address."""

    def __init__(self, listens: str) -> None:
        self.local = is_loopback(listens)
        self.names = {"localhost", listens.lower()}
        if not self.local:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def knows(self, host: str) -> bool:
        """Whether a request's Host header names this server."""
        told = HOST.fullmatch(host.lower())
        if told is None:
            return False
        name = told[1].strip("[]")
        # No name service stands behind a number: it cannot be made to point elsewhere.
        return name in self.names or (is_loopback(name) if self.local else is_number(name))


def is_loopback(host: str) -> bool:
    """Whether a name or number is this machine to itself."""
    return host == "localhost" or (is_number(host) and ipaddress.ip_address(host).is_loopback)


def is_number(host: str) -> bool:
    """Whether a host is an address in numbers."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
