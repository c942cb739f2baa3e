"""One image from one address of the web, by a client that trusts neither the address nor the answer."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urljoin, urlsplit

from edittools import __version__
from edittools.stream.formats import sniff

AGENT = "edittools"
OPT_OUT = {"noai", "noimageai", "noindex", "noimageindex"}  # directives of X-Robots-Tag, those of img2dataset
_MOST_REDIRECTS = 5
_PIECE = 64 << 10
_LATER = {408, 425, 429, 500, 502, 503, 504}  # the same request may succeed later


class FetchError(Exception):
    """Why there is no image. `again`: whether it may be there on another try, after `wait` seconds at least."""

    def __init__(self, reason: str, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.wait = again, wait


@dataclass(frozen=True)
class Limits:
    """What one image may cost."""

    size: int = 50 << 20  # bytes
    seconds: float = 30.0  # from the first connection to the last byte
    private: bool = False  # whether addresses of this machine and its network are allowed


def get_image(address: str, limits: Limits) -> bytes:
    """The bytes of the image at an address, http or https. Raises FetchError."""
    deadline = time.monotonic() + limits.seconds
    for _ in range(_MOST_REDIRECTS + 1):
        try:
            found = _answer(address, limits, deadline)
        except (TimeoutError, ssl.SSLWantReadError):
            raise FetchError("timed out", again=True) from None
        except ssl.SSLError as error:
            raise FetchError(f"TLS: {error.reason or 'failed'}") from None
        except (http.client.HTTPException, ConnectionError, socket.gaierror, OSError) as error:
            raise FetchError(_why(error), again=True) from None
        if isinstance(found, bytes):
            if sniff(found) is None:
                raise FetchError("not an image")
            return found
        address = urljoin(address, found)
    raise FetchError("too many redirects")


def _why(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return "host not found"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, http.client.IncompleteRead):
        return "answer cut off"
    return "connection failed"


def _answer(address: str, limits: Limits, deadline: float) -> bytes | str:
    """What an address holds, or where it redirects to."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError("not an address of http or https")
    connection = _connect(parts.scheme, parts.hostname, _port(parts.port, parts.scheme), limits, deadline)
    try:
        path = (parts.path or "/").replace(" ", "%20") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": f"{AGENT}/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
        connection.request("GET", path.encode("ascii", "surrogatepass").decode("ascii"), headers=headers)
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308) and answer.headers.get("Location"):
            return str(answer.headers["Location"])
        if answer.status != 200:
            wait = answer.headers.get("Retry-After") or ""
            seconds = float(wait) if wait.isdecimal() else 0.0
            raise FetchError(f"HTTP {answer.status}", again=answer.status in _LATER, wait=seconds)
        if opted_out(answer.headers):
            raise FetchError("opted out")
        return _body(answer, connection, limits, deadline)
    except UnicodeError:
        raise FetchError("not an address of http or https") from None
    finally:
        connection.close()


def _port(port: int | None, scheme: str) -> int:
    return port if port is not None else 443 if scheme == "https" else 80


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connect(scheme: str, host: str, port: int, limits: Limits, deadline: float) -> http.client.HTTPConnection:
    """A connection to a host whose address has been looked at: the name may mean another one the next moment."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = [entry[4] for entry in found]
    if not limits.private and not all(is_public(str(place[0])) for place in places):
        raise FetchError("private address")
    last: OSError = ConnectionError("no address")
    for place in places:
        try:
            plain = socket.create_connection((str(place[0]), port), timeout=min(_left(deadline), 10.0))
            break
        except OSError as error:
            last = error
    else:
        raise last
    if scheme == "https":
        try:
            plain = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
    connection = http.client.HTTPConnection(host, port)  # the socket is there already, and speaks TLS where it is to
    if scheme == "https":
        connection.default_port = 443
    connection.sock = plain
    return connection


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not of this machine, its network, or any special use."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    if mapped is not None:
        return is_public(str(mapped))
    return found.is_global and not found.is_multicast


def opted_out(headers: Message) -> bool:
    """Whether the answer says that it is not for this: `X-Robots-Tag: noai`, for everybody or for this agent."""
    for value in headers.get_all("X-Robots-Tag") or []:
        agent = ""
        for part in value.casefold().split(","):
            name, colon, directive = part.strip().partition(":")
            if colon:  # what follows is said to this agent
                agent, part = name.strip(), directive
            if part.strip() in OPT_OUT and agent in ("", AGENT):
                return True
    return False


def _body(
    answer: http.client.HTTPResponse, connection: http.client.HTTPConnection, limits: Limits, deadline: float
) -> bytes:
    """What is sent, as far as it is allowed to go."""
    stated = answer.headers.get("Content-Length") or ""
    if stated.isdecimal() and int(stated) > limits.size:
        raise FetchError(f"larger than {limits.size} bytes")
    pieces, size = [], 0
    while True:
        if connection.sock is not None:
            connection.sock.settimeout(_left(deadline))
        _left(deadline)
        piece = answer.read1(_PIECE)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
        if size > limits.size:
            raise FetchError(f"larger than {limits.size} bytes")
    if stated.isdecimal() and size < int(stated):
        raise FetchError("answer cut off", again=True)
    return b"".join(pieces)
