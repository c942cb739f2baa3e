"""Images of the web, from a server on this machine: what is fetched, what is not and why, and what is tried again."""

from __future__ import annotations

import http.server
import io
import json
import socket
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runner, image, rejects_of, rows_of

from edittools.errors import RowError
from edittools.ingest import fetching
from edittools.ingest.fetching import Failures, Manners, Store
from edittools.ingest.http_get import FetchError, Limits, get_image, is_public, opted_out
from edittools.stream.input_reader import image_at
from edittools.stream.records import reader_for

LIMITS = Limits(size=100_000, seconds=5, private=True)


class Server(http.server.ThreadingHTTPServer):
    """Counts what it is asked for; `well` says whether what was flaky works."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.times: list[float] = []
        self.well = False

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *said: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        self.server.agents.add(self.headers["User-Agent"])
        self.server.times.append(time.monotonic())
        name, _, rest = self.path.strip("/").partition("/")
        getattr(self, f"do_{name}", self.do_missing)(rest.partition("?")[0])

    def send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None, length: int = -1) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) if length < 0 else length))
        self.end_headers()
        self.wfile.write(data)

    def do_missing(self, rest: str) -> None:
        self.send(b"gone", 404)

    def do_image(self, rest: str) -> None:
        self.send(image(int(rest.partition(".")[0])))

    def do_flaky(self, rest: str) -> None:
        """Works at the third request, or when the server is well."""
        if self.server.well or self.server.asked[self.path] > 2:
            self.do_image(rest)
        else:
            self.send(b"busy", 503, {"Retry-After": "0"})

    def do_down(self, rest: str) -> None:
        self.do_image(rest) if self.server.well else self.send(b"down", 500)

    def do_page(self, rest: str) -> None:
        self.send(b"<html>no image</html>", headers={"Content-Type": "image/jpeg"})

    def do_tagged(self, rest: str) -> None:
        self.send(image(1), headers={"X-Robots-Tag": {"all": "noindex, NoAI", "us": "edittools: noai"}[rest]})

    def do_others(self, rest: str) -> None:
        self.send(image(2), headers={"X-Robots-Tag": "otherbot: noai, noimageai"})

    def do_large(self, rest: str) -> None:
        self.send(b"\xff\xd8\xff" + b"x" * 10, length=10_000_000)

    def do_endless(self, rest: str) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(b"\xff\xd8\xff" + b"x" * 10_000)
        except OSError:  # nobody listens any more
            pass

    def do_slow(self, rest: str) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"\xff\xd8\xff")
                time.sleep(0.1)
        except OSError:
            pass

    def do_cut(self, rest: str) -> None:
        self.send(image(3)[:200], length=len(image(3)))

    def do_headers(self, rest: str) -> None:
        """Headers without end, each in time."""
        self.send_response(200)
        self.flush_headers()
        try:
            for number in range(100):
                self.wfile.write(f"X-{number}: more\r\n".encode())
                time.sleep(0.1)
        except OSError:
            pass

    def do_moved(self, rest: str) -> None:
        self.send(b"", 302, {"Location": f"/{rest}"})

    def do_circle(self, rest: str) -> None:
        self.send(b"", 301, {"Location": self.path})

    def do_accented(self, rest: str) -> None:
        """A server that names the new place in UTF-8, as it stands."""
        self.send(b"", 302, {"Location": "/image/8.jpg?é".encode().decode("latin-1")})

    def do_home(self, rest: str) -> None:
        self.send(b"", 302, {"Location": self.server.address("/image/1")})

    def do_away(self, rest: str) -> None:
        self.send(b"", 302, {"Location": "file:///etc/passwd"})


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_images_come_as_they_are(server: Server) -> None:
    for path, seed in (("/image/5.jpg", 5), ("/image/6.jpg?size=1", 6), ("/moved/image/7.jpg", 7), ("/others", 2)):
        assert get_image(server.address(path), LIMITS) == image(seed)
    for path in ("/image/8.jpg?é", "/image/8.jpg?%C3%A9", "/accented"):
        assert get_image(server.address(path), LIMITS) == image(8)
    assert server.asked["/image/8.jpg?%C3%A9"] == 3
    (agent,) = server.agents
    assert agent.startswith("edittools/")


@pytest.mark.parametrize(
    ("path", "reason", "again"),
    [
        ("/nowhere", "HTTP 404", False),
        ("/down/1", "HTTP 500", True),
        ("/flaky/1", "HTTP 503", True),
        ("/page", "not an image", False),
        ("/tagged/all", "opted out", False),
        ("/tagged/us", "opted out", False),
        ("/large", "larger than 100000 bytes", False),
        ("/endless", "larger than 100000 bytes", False),
        ("/cut", "answer cut off", True),
        ("/circle", "too many redirects", False),
        ("/away", "not an address of http or https", False),
    ],
)
def test_why_there_is_no_image(server: Server, path: str, reason: str, again: bool) -> None:
    with pytest.raises(FetchError) as raised:
        get_image(server.address(path), LIMITS)
    assert (str(raised.value), raised.value.again) == (reason, again)


@pytest.mark.parametrize("path", ["/slow", "/headers"])
def test_what_takes_too_long_is_given_up(server: Server, path: str) -> None:
    began = time.monotonic()
    with pytest.raises(FetchError, match="timed out"):
        get_image(server.address(path), Limits(seconds=0.5, private=True))
    assert time.monotonic() - began < 8  # of 10


def test_nobody_there(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address, reason in (
        (f"http://127.0.0.1:{port}/x", "connection refused"),
        ("http://nowhere.invalid/x.jpg", "host not found"),
        ("ftp://127.0.0.1/x", "not an address of http or https"),
        ("http:///x", "not an address of http or https"),
        ("http://[::1/x.jpg", "not an address of http or https"),
        ("http://127.0.0.1:99999/x", "not an address of http or https"),
        ("http://127.0.0.1:abc/x", "not an address of http or https"),
        ("http://" + "a" * 70 + ".com/x", "not an address of http or https"),
        ("http://\u2100.com/x", "not an address of http or https"),
    ):
        with pytest.raises(FetchError, match=reason):
            get_image(address, LIMITS)


def test_addresses_of_ones_own_network_are_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by number nor by name, nor where only one of several numbers of a name is private."""
    limits = Limits()
    port = server.server_port
    for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433"):
        with pytest.raises(FetchError, match=r"private address|host not found|connection"):
            get_image(f"http://{host}:{port}/image/1", limits)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("93.184.216.34", "10.0.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **named: found)
    with pytest.raises(FetchError, match="private address"):
        get_image("http://example.org/x.jpg", limits)
    assert not server.asked


def test_a_public_server_leads_to_no_address_of_ones_own_network(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`public.example` is the server, for whoever connects to its number; it sends on to itself by its own number."""
    number, connect = "93.184.216.34", socket.create_connection
    look_up = socket.getaddrinfo

    def names(host: str, port: int, *asked: Any, **named: Any) -> Any:
        return look_up(number if host == "public.example" else host, port, *asked, **named)

    def connected(place: tuple[str, int], timeout: float) -> socket.socket:
        assert place[0] == number, "a private address was asked"
        return connect(("127.0.0.1", server.server_port), timeout)

    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setattr(socket, "create_connection", connected)
    assert get_image("http://public.example/image/3", Limits()) == image(3)
    with pytest.raises(FetchError, match="private address"):
        get_image("http://public.example/home", Limits())
    assert server.asked == {"/image/3": 1, "/home": 1}


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),  # where clouds keep their keys
        ("100.64.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:0a00:0001::1", False),
        ("64:ff9b::10.0.0.1", False),  # where a network translates it
        ("::10.0.0.1", False),
        ("fec0::1", False),
        ("not an address", False),
    ],
)
def test_addresses_of_the_public_internet(address: str, public: bool) -> None:
    assert is_public(address) == public


@pytest.mark.parametrize(
    ("values", "out"),
    [
        ([], False),
        (["noai"], True),
        (["nofollow, noimageai"], True),
        (["NoIndex"], True),
        (["otherbot: noai"], False),
        (["otherbot: nofollow, noai"], False),
        (["edittools: noai"], True),
        (["otherbot: noai", "noimageindex"], True),
        (["max-snippet: 10"], False),
        (["nofollow"], False),
        (["max-image-preview: large, noai"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 GMT", "otherbot: noai"], False),
    ],
)
def test_headers_that_opt_out(values: list[str], out: bool) -> None:
    headers = Message()
    for value in values:
        headers["X-Robots-Tag"] = value
    assert opted_out(headers) == out


def test_only_what_failed_is_tried_again(server: Server, tmp_path: Path) -> None:
    paths = ["/image/1", "/flaky/2", "/down/3", "/nowhere", "/image/1"]
    addresses = [*(server.address(path) for path in paths), "http://[half/of/an/address"]
    manners = Manners(rate=1000, retries=1, limits=LIMITS)
    done = Store(str(tmp_path)).fetch(addresses, manners, quiet=True)
    none = "not an address of http or https"
    assert done == {"fetched": 1, "HTTP 503": 1, "HTTP 500": 1, "HTTP 404": 1, none: 1}
    assert server.asked == {"/image/1": 1, "/flaky/2": 2, "/down/3": 2, "/nowhere": 1}
    store = Store(str(tmp_path))
    assert store.find(addresses[2])["etag"] == "!HTTP 500" and store.find("http://x/y")["etag"] == "!not fetched"
    server.well = True
    assert store.fetch(addresses, manners, quiet=True) == {"fetched": 2, "HTTP 404": 1, none: 1}
    assert server.asked["/image/1"] == 1 and server.asked["/nowhere"] == 2
    found = [Store(str(tmp_path)).find(address) for address in addresses[:3]]
    assert [Path(one["file"]).read_bytes() for one in found] == [image(k) for k in (1, 2, 3)]
    said = [json.loads(line) for line in (tmp_path / "status.jsonl").read_text().splitlines()]
    assert len(said) == 9 and sum(line["status"] == "success" for line in said) == 3
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_addresses_are_taken_as_they_are_needed(server: Server, tmp_path: Path) -> None:
    """A list has any length: only those under way are held, and each is asked for once, what failed too."""
    most, done = 0, Counter[str]()

    def addresses() -> Iterator[str]:
        nonlocal most
        for given in range(600):
            k = given % 300
            most = max(most, given - done.total() if given < 300 else 0)
            yield server.address(f"/image/{k}" if k % 6 else f"/nowhere/{k}")

    Store(str(tmp_path)).fetch(addresses(), Manners(rate=1e6, threads=4, limits=LIMITS), quiet=True, done=done)
    assert done == {"fetched": 250, "HTTP 404": 50} and set(server.asked.values()) == {1}
    assert most <= 4 * 4 + 1


def test_what_failed_is_known_in_few_bytes() -> None:
    """As a dictionary knows it, while it is sorted in again and again; what was said last holds."""
    ours, theirs = Failures(), dict[str, str]()
    for k in range(100_000):
        address, reason = f"https://a.example/{k * 7919 % 60_000}.jpg", f"HTTP {400 + k % 90}"
        ours[address] = theirs[address] = reason
    assert all(ours.get(address) == reason for address, reason in theirs.items())
    assert ours.get("https://a.example/") is None and "https://b.example/1.jpg" not in ours
    tracemalloc.start()
    more = Failures()
    for k in range(200_000):
        more[f"https://a.example/{k}"] = "HTTP 404"
    assert tracemalloc.get_traced_memory()[0] < 200_000 * 40
    tracemalloc.stop()


def test_a_host_is_asked_so_often_a_second(server: Server, tmp_path: Path) -> None:
    addresses = [server.address(f"/image/{k}") for k in range(8)]
    Store(str(tmp_path)).fetch(addresses, Manners(rate=20, limits=LIMITS), quiet=True)
    times = sorted(server.times)
    assert len(times) == 8 and times[-1] - times[0] > 7 / 20 * 0.8


def test_a_list_of_addresses_becomes_rows(edit: Runner, server: Server, tmp_path: Path) -> None:
    """Images and reasons; the second run fetches the rest, and what is there is not asked for again."""
    paths = ["/image/0", "/down/1", "/page", "/tagged/all", "/image/0", "/image/4"]
    table = {
        "URL": [server.address(path) for path in paths],
        "TEXT": [f"text {k}" for k in range(6)],
        "similarity": [0.1 * k for k in range(6)],
    }
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    given = ("shard", tmp_path / "list.parquet", "--from", "laion_list", "--fetch", tmp_path / "store", "-o")
    manner = ("--max-errors", "100%", "--fetch-private", "--fetch-retries", 0, "--fetch-rate", 1000)
    said = edit(*given, tmp_path / "out", *manner).stderr
    assert "fetch: 5 addresses: 2 fetched" in said
    rows = rows_of(tmp_path / "out")
    assert [(row["target"], row["caption"]["en"]) for row in rows] == [
        (image(0), "text 0"),
        (image(0), "text 4"),
        (image(4), "text 5"),
    ]
    assert {reject["reason"] for reject in rejects_of(tmp_path / "out")} == {"HTTP 500", "not an image", "opted out"}
    server.well = True
    edit(*given, tmp_path / "out", *manner, "--overwrite")
    assert [row["target"] for row in rows_of(tmp_path / "out")] == [image(k) for k in (0, 1, 0, 4)]
    assert server.asked["/image/0"] == 1 and server.asked["/down/1"] == 2
    plain = ("--map", "target=URL", "--map", "caption=TEXT", "--fetch", tmp_path / "store", "--limit", 1)
    edit("shard", tmp_path / "list.parquet", *plain, "-o", tmp_path / "one")
    assert len(rows_of(tmp_path / "one")) == 1 and server.asked["/image/4"] == 1


def test_without_leave_this_machine_is_not_asked(edit: Runner, server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"image": server.address("/image/1")}) + "\n")
    given = ("shard", tmp_path / "x.jsonl", "--fetch", tmp_path / "store", "-o", tmp_path / "out")
    edit(*given, "--max-errors", "100%")
    assert [reject["reason"] for reject in rejects_of(tmp_path / "out")] == ["private address"] and not server.asked


def test_without_fetch_nothing_is_asked_of_the_web(edit: Runner, server: Server, tmp_path: Path) -> None:
    """Whoever wrote a list of addresses, of any table: each is a reject."""
    address = server.address("/image/1")
    records = [{"url": one} for one in (address, f" {address}", f"simplecache::{address}", address.upper())]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "x.csv").write_text("url\n" + "\n".join(record["url"] for record in records) + "\n")
    pq.write_table(pa.table({"url": [record["url"] for record in records]}), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.csv", "x.parquet"):
        for given in (("--map", "target=url"), ("--map", "target=url", "--root", tmp_path)):
            edit("shard", tmp_path / name, *given, "-o", tmp_path / "out", "--max-errors", "100%", "--overwrite")
            assert {reject["reason"] for reject in rejects_of(tmp_path / "out")} == {"not fetched"}, (name, given)
    for name in ("none.jsonl", "none.csv"):  # nor is a list of which no image is there one without the column
        (tmp_path / name).write_text('{"url": "gone.png"}\n' if name.endswith("l") else "url\ngone.png\n")
        edit("shard", tmp_path / name, "--map", "target=url", "-o", f"{tmp_path}/{name}.out/", "--max-errors", "100%")
    assert not server.asked and not rows_of(tmp_path / "out")
    (tmp_path / "a::b.png").write_bytes(image(7))  # a file is none
    (tmp_path / "y.jsonl").write_text('{"image": "a::b.png"}')
    edit("shard", tmp_path / "y.jsonl", "-o", tmp_path / "file")
    assert [row["target"] for row in rows_of(tmp_path / "file")] == [image(7)]


@pytest.mark.parametrize(
    "address",
    (
        "zip://a.png::http://h/a.zip webhdfs://h/a.png generic://a.png reference://a.png sftp://h/a.png HTTP://h/a.png "
        "github://o:r@main/a.png s3://b/a.png::x filecache::s3://b/a.png"
    ).split(),
)
def test_rows_name_files_and_stores_alone(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edittools.stream.files.facts", lambda path: (3, path))
    with pytest.raises(RowError, match="not fetched"):
        image_at("/tmp", address)
    for stored in ("s3://b/a.png", "gs://b/a.png", "az://b/a.png", "abfs://b/a.png", "hf://datasets/a.png"):
        assert image_at("/tmp", stored)["file"] == stored


def test_hosts_on_hold_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many hosts there are; those whose time has come are."""
    now = [1000.0]
    monkeypatch.setattr("edittools.ingest.fetching._HOSTS", 8)
    monkeypatch.setattr("edittools.ingest.fetching.time.monotonic", lambda: now[0])
    clock = fetching._Clock(10.0)
    monkeypatch.setattr(clock.ended, "wait", lambda seconds: False)
    for k in range(7):
        clock.hold(f"held-{k}", 50.0 if k else 100.0)
    clock.wait_for("held-0")  # its own turn is after all the others'
    clock.wait_for("other")
    assert all(clock.next[f"held-{k}"] >= 1050.0 for k in range(7))
    now[0] = 1060.0
    for k in range(16):
        clock.wait_for(f"new-{k}")
    assert "held-1" not in clock.next and "held-0" in clock.next


def test_a_half_written_line_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "status.jsonl").write_bytes(b'{"url": "http://x/y", "sta')
    for address in ("http://[a", "http://[b"):
        Store(str(tmp_path)).fetch([address], Manners(limits=LIMITS), quiet=True)
    lines = (tmp_path / "status.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["url"] for line in lines[1:]] == ["http://[a", "http://[b"]
    assert "http://[a" in Store(str(tmp_path)).failed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
def test_lists_of_addresses_in_any_encoding(encoding: str) -> None:
    file = io.BytesIO("http://x/1\r\n\nhttp://x/\u0a0a\n".encode(encoding))
    reader = reader_for("a.txt", file.getvalue()[:1024])
    assert reader is not None
    assert list(reader(file, Counter())) == [(0, {"image": "http://x/1"}), (2, {"image": "http://x/\u0a0a"})]


def test_a_text_of_addresses_is_a_list(edit: Runner, server: Server, tmp_path: Path) -> None:
    lines = [server.address("/image/1"), "", server.address("/nothing"), f"  {server.address('/image/2.jpg?x=1')} "]
    (tmp_path / "list.txt").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    given = ("--fetch", tmp_path / "store", "--fetch-private", "--fetch-retries", 0, "--max-errors", "100%")
    edit("shard", tmp_path / "list.txt", *given, "-o", tmp_path / "out")
    assert [row["target"] for row in rows_of(tmp_path / "out")] == [image(1), image(2)]
    assert [reject["reason"] for reject in rejects_of(tmp_path / "out")] == ["HTTP 404"]
    edit("shard", tmp_path / "list.txt", "-o", tmp_path / "none", "--max-errors", "100%")
    assert {reject["reason"] for reject in rejects_of(tmp_path / "none")} == {"not fetched"}


def test_tasks_fetch_what_their_own_shards_name(edit: Runner, server: Server, tmp_path: Path) -> None:
    """Six rows in three shards, two tasks: one after the other, each asks for its own, and the set is as one run's."""
    addresses = [server.address(f"/image/{k}") for k in range(5)] + [server.address("/nothing")]
    pq.write_table(pa.table({"URL": addresses, "TEXT": list("abcdef")}), tmp_path / "list.parquet")
    given = ("shard", tmp_path / "list.parquet", "--from", "laion_list", "--rows", 2, "--max-errors", "100%")
    manner = ("--fetch-private", "--fetch-retries", 0, "--fetch-rate", 1000)
    edit(*given, *manner, "--fetch", tmp_path / "store", "--task", "0/2", "-o", f"{tmp_path}/out/")
    assert set(server.asked) == {"/image/0", "/image/1", "/image/4", "/nothing"}
    assert (tmp_path / "store/status.0-of-2.jsonl").exists()
    edit(*given, *manner, "--fetch", tmp_path / "store", "--task", "1/2", "-o", f"{tmp_path}/out/")
    assert set(server.asked.values()) == {1}
    edit(*given, *manner, "--fetch", tmp_path / "one", "-o", f"{tmp_path}/whole/")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole") and len(rows_of(tmp_path / "out")) == 5
    assert {reject["reason"] for reject in rejects_of(tmp_path / "out")} == {"HTTP 404"}
