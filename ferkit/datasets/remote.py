"""Images at http and https addresses: fetched within limits of size, time and redirects, from public hosts."""

import ipaddress
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from ferkit.core.errors import ImageError

if TYPE_CHECKING:
    import http.client

_CHUNK = 65_536
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class FetchLimits:
    """What is fetched at most.

    Attributes:
        max_bytes: of one image's file.
        max_s: from the first connection to the last byte, in seconds.
        max_redirects: from one address to the next.
        private_hosts: also fetch from this machine and its own network.
    """

    max_bytes: int = 50_000_000
    max_s: float = 30.0
    max_redirects: int = 5
    private_hosts: bool = False


def is_http(text: str) -> bool:
    """Whether a text is an http or https address."""
    return text.lower().startswith(("http://", "https://"))


def fetch_image(address: str, limits: FetchLimits | None = None) -> bytes:
    """Fetch the file at an address; whether it is an image is seen when it is decoded.

    Names are resolved once, and the connection goes to the address that was checked.

    Raises:
        ImageError: the host is not public or does not answer, or a limit is passed; one sentence says which.
    """
    import http.client  # brings ssl and email with it, which a start with a file does not need

    limits = limits or FetchLimits()
    deadline = time.monotonic() + limits.max_s
    for _ in range(limits.max_redirects + 1):
        try:
            parts = urlsplit(address)
            found = _get(parts, limits, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = isinstance(error, TimeoutError) or time.monotonic() >= deadline
            why = f"it takes more than {limits.max_s:g} s" if late else str(error) or type(error).__name__
            raise ImageError(f"it cannot be fetched: {why}") from None
        if isinstance(found, bytes):
            return found
        target = urljoin(address, found)
        if not is_http(target) or (parts.scheme == "https" and urlsplit(target).scheme != "https"):
            raise ImageError("it cannot be fetched: it leads from https to another kind of address")
        address = target
    raise ImageError(f"it cannot be fetched: more than {limits.max_redirects} redirects")


def _get(parts: SplitResult, limits: FetchLimits, deadline: float) -> bytes | str:
    """The content, or where the address leads."""
    import http.client

    if parts.username is not None or not parts.hostname:
        raise ValueError("expected an address without user name and with a host")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(parts.hostname, port)
    connection.sock = sock = _connect(parts, port, limits, deadline)
    # A host may send a byte now and then for ever: no time-out of one read ends that.
    end = threading.Timer(max(0.1, deadline - time.monotonic()), lambda: sock.shutdown(socket.SHUT_RDWR))
    end.daemon = True
    end.start()
    try:
        query = f"?{parts.query}" if parts.query else ""
        host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
        path = "".join(
            c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in parts.path or "/"
        )
        headers = {"Host": host, "User-Agent": "ferkit", "Accept": "image/*", "Connection": "close"}
        connection.request("GET", path.replace(" ", "%20") + query, headers=headers)
        response = connection.getresponse()
        if response.status in _REDIRECTS and (location := response.getheader("Location")):
            return location
        if response.status != 200:
            raise ValueError(f"the host answers {response.status} {response.reason}")
        return _read(response, limits)
    finally:
        end.cancel()
        connection.close()


def _connect(parts: SplitResult, port: int, limits: FetchLimits, deadline: float) -> socket.socket:
    host = parts.hostname or ""
    resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    numbers = [str(entry[4][0]) for entry in resolved]
    if not limits.private_hosts and not all(map(_is_public, numbers)):
        raise ValueError(f"{host} is in a private network, which is only asked on request (private_hosts)")
    sock = socket.create_connection(
        (numbers[0], port), timeout=max(0.1, min(10.0, deadline - time.monotonic()))
    )
    if parts.scheme == "https":
        import ssl

        return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    return sock


def _is_public(number: str) -> bool:
    found = ipaddress.ip_address(number.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_global and not found.is_multicast


def _read(response: "http.client.HTTPResponse", limits: FetchLimits) -> bytes:
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > limits.max_bytes:
            raise ValueError(f"the file has more than {limits.max_bytes / 1e6:g} MB")
    if response.length:
        raise ValueError(f"the file ends {response.length} bytes early")
    return bytes(content)
