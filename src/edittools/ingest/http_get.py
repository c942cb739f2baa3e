"""One image from one address of the web, by a client that trusts neither the address nor the answer."""

from __future__ import annotations

import functools
import http.client
import io
import ipaddress
import socket
import ssl
import string
import time
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from edittools import __version__
from edittools.stream.formats import sniff

AGENT = "edittools"
OPT_OUT = {"noai", "noimageai", "noindex", "noimageindex"}  # directives of X-Robots-Tag, those of img2dataset
_WITH_VALUES = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}  # which are no agents
_MOST_REDIRECTS = 5
_PIECE = 64 << 10
_LATER = {408, 425, 429, 500, 502, 503, 504}  # the same request may succeed later
_NO_ADDRESS = "not an address of http or https"
_UNICAST = ipaddress.ip_network("2000::/3")  # what else IPv6 has is special, or means an IPv4 address


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
        except (http.client.InvalidURL, ValueError):  # of Python's parser, of a port, of a name that IDNA has not
            raise FetchError(_NO_ADDRESS) from None
        except (http.client.HTTPException, OSError) as error:
            raise FetchError(_why(error), again=True) from None
        if isinstance(found, bytes):
            if sniff(found) is None:
                raise FetchError("not an image")
            return found
        address = found
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
        raise FetchError(_NO_ADDRESS)
    connection = _connect(parts.scheme, parts.hostname, _port(parts.port, parts.scheme), limits, deadline)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": f"{AGENT}/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
        connection.request("GET", quote(path, safe=string.punctuation), headers=headers)
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308) and answer.headers.get("Location"):
            # http.client reads headers as Latin-1, whatever they are in: the same bytes again
            return urljoin(address, quote(answer.headers["Location"], string.punctuation, "latin-1"))
        if answer.status != 200:
            wait = answer.headers.get("Retry-After") or ""
            seconds = float(wait) if wait.isdecimal() else 0.0
            raise FetchError(f"HTTP {answer.status}", again=answer.status in _LATER, wait=seconds)
        if opted_out(answer.headers):
            raise FetchError("opted out")
        return _body(answer, limits)
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
        plain.settimeout(_left(deadline))  # of the whole handshake
        try:
            plain = _certificates().wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
    connection = http.client.HTTPConnection(host, port)  # the socket is there already, and speaks TLS where it is to
    if scheme == "https":
        connection.default_port = 443
    connection.sock = _Timed(plain, deadline)
    return connection


@functools.cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()  # which takes longer than a request


class _Timed:
    """A socket, as far as http.client needs one, that nothing is read from after a deadline: a server may send its
    headers byte by byte for days, each in time."""

    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self.plain, self.deadline = plain, deadline

    def sendall(self, data: bytes) -> None:
        self.plain.settimeout(_left(self.deadline))
        self.plain.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self.plain, self.deadline))

    def close(self) -> None:
        self.plain.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self.plain, self.deadline = plain, deadline
        self.raw = plain.makefile("rb", 0)  # which keeps the socket open as long as it is read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.plain.settimeout(_left(self.deadline))
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not of this machine, its network, or any special use."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if found.version == 6:
        mapped = found.ipv4_mapped or found.sixtofour
        if mapped is not None:
            return is_public(str(mapped))
        return found.is_global and found in _UNICAST
    return found.is_global and not found.is_multicast


def opted_out(headers: Message) -> bool:
    """Whether the answer says that it is not for this: `X-Robots-Tag: noai`, for everybody or for this agent."""
    for value in headers.get_all("X-Robots-Tag") or []:
        agent = ""
        for part in value.casefold().split(","):
            name, colon, directive = part.strip().partition(":")
            if colon and name.strip() not in _WITH_VALUES:  # what follows is said to this agent
                agent, part = name.strip(), directive
            if part.strip() in OPT_OUT and agent in ("", AGENT):
                return True
    return False


def _body(answer: http.client.HTTPResponse, limits: Limits) -> bytes:
    """What is sent, as far as it is allowed to go."""
    stated = answer.headers.get("Content-Length") or ""
    if stated.isdecimal() and int(stated) > limits.size:
        raise FetchError(f"larger than {limits.size} bytes")
    pieces, size = [], 0
    while True:
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
