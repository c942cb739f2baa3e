"""A study's page for people who come to it: the page without its cases, each case when it is asked for, the answers.

Starlette and uvicorn, the extra `serve`. Names are what raters say they are: put a proxy with a login in front of it
where that is not enough.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edittools.bench.studies.answers import KEY_FORMAT, read_json, values_of
from edittools.bench.studies.build import KEY, PAGE
from edittools.bench.studies.design import design_of
from edittools.bench.studies.store import AnswerStore, OtherTab
from edittools.errors import EditError, missing_extra

MOST_BYTES = 1 << 16  # of an answer
_CASE = re.compile(rb'<script type="application/json" id="case-(\d+)">')
_END = b"</script>\n"


class ServedPage:
    """The page in two: what everybody gets, and where each case lies in the file."""

    def __init__(self, path: Path, assigned: bool) -> None:
        self.path = path
        self.places: dict[int, tuple[int, int]] = {}
        parts = []
        try:
            with path.open("rb") as file:
                offset = 0
                for line in file:
                    found = _CASE.match(line)
                    if found is None:
                        parts.append(line)
                    else:
                        self.places[int(found[1])] = (offset + found.end(), len(line) - found.end() - len(_END))
                    offset += len(line)
        except OSError as error:
            raise EditError(f"{path}: {error.strerror}", hint="edit eval study build makes it") from error
        head = (
            b'<script type="application/json" id="server">%s</script>\n' % json.dumps({"assigned": assigned}).encode()
        )
        page = b"".join(parts).replace(b"default-src 'none';", b"default-src 'none'; connect-src 'self';", 1)
        before, mark, after = page.partition(b'<script type="application/json" id="study">')
        self.html = before + head + mark + after

    def case(self, number: int) -> bytes:
        """The JSON of a case. Raises KeyError."""
        offset, length = self.places[number]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


class Service:
    """What the requests of raters come to. `each` raters get every case, None: everybody does."""

    def __init__(self, folder: str, database: str | None = None, each: int | None = None) -> None:
        root = Path(folder)
        self.key = read_json(str(root / KEY), KEY_FORMAT)
        self.asked = design_of(self.key)
        self.each = each or self.asked.raters
        self.page = ServedPage(root / PAGE, self.each is not None)
        if sorted(self.page.places) != list(range(len(self.key["cases"]))):
            raise EditError(f"{root / PAGE}: has {len(self.page.places)} cases, {KEY} has {len(self.key['cases'])}")
        self.database = database or str(root / "answers.sqlite")
        self.store = AnswerStore(self.database, self.key["study"], len(self.key["cases"]))
        find: Callable[..., list[int]] | None = getattr(self.asked.reporter(), "undecided", None)
        self.find = find

    def answer(self, rater: str, tab: str, number: int, answer: dict[str, Any]) -> None:
        """Raises EditError for what is no answer, OtherTab."""
        letters = self.key["cases"][number]["results"]
        complete = values_of(answer, letters, self.asked, f"case {number}") is not None
        self.store.save(rater, tab, number, answer, complete)

    def next(self, rater: str, tab: str) -> dict[str, int | None]:
        number, left = self.store.give(rater, tab, self.each or len(self.key["cases"]), self._undecided)
        return {"case": number, "left": left}

    def _undecided(self, said: dict[str, dict[str, Any]]) -> list[int]:
        if self.find is None or not said:
            return []
        study = self.key["study"]
        return self.find(self.key, [{"study": study, "rater": name, "answers": given} for name, given in said.items()])


async def _said(request: Any) -> dict[str, Any]:
    """What a rater's page sends: JSON with at least rater and tab. Raises EditError."""
    if not request.headers.get("content-type", "").startswith("application/json"):  # no form of another site
        raise EditError("not JSON")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise EditError(f"more than {MOST_BYTES} bytes")
        parts.append(part)
    try:
        found = json.loads(b"".join(parts))
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair cannot be stored
    except (ValueError, RecursionError):
        raise EditError("not JSON") from None
    rater, tab = (found.get(name) if isinstance(found, dict) else None for name in ("rater", "tab"))
    if not (isinstance(rater, str) and 0 < len(rater.strip()) <= 60 and isinstance(tab, str) and len(tab) <= 64):
        raise EditError("no rater")
    return {**found, "rater": rater.strip()}


def application(service: Service) -> Any:
    """The ASGI application. Raises EditError where Starlette is not installed."""
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request
        from starlette.responses import JSONResponse, PlainTextResponse, Response
        from starlette.routing import Route
    except ImportError:
        raise missing_extra("starlette", "serve", "edit eval study serve") from None

    def replies(work: Callable[[Request, dict[str, Any]], Any]) -> Callable[[Request], Any]:
        async def reply(request: Request) -> Response:
            try:
                return JSONResponse(await run_in_threadpool(work, request, await _said(request)))
            except OtherTab:
                return PlainTextResponse("open in another tab", 409)
            except EditError as error:
                return PlainTextResponse(str(error), 400)
            except sqlite3.Error as error:  # a full disk: the page tries again until there is room
                return PlainTextResponse(f"{service.database}: {error}", 503)

        return reply

    def begin(request: Request, said: dict[str, Any]) -> Any:
        return {"answers": service.store.begin(said["rater"], said["tab"])}

    def answer(request: Request, said: dict[str, Any]) -> Any:
        number, given = request.path_params["number"], said.get("answer")
        if number not in service.page.places or not isinstance(given, dict):
            raise EditError(f"no answer to case {number}")
        service.answer(said["rater"], said["tab"], number, given)
        return {}

    def following(request: Request, said: dict[str, Any]) -> Any:
        return service.next(said["rater"], said["tab"])

    def page(request: Request) -> Response:
        return Response(service.page.html, media_type="text/html; charset=utf-8", headers={"cache-control": "no-store"})

    def case(request: Request) -> Response:
        number = request.path_params["number"]
        if number not in service.page.places:
            return PlainTextResponse("no such case", 404)
        return Response(service.page.case(number), media_type="application/json")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/case/{number:int}", case),
            Route("/begin", replies(begin), methods=["POST"]),
            Route("/next", replies(following), methods=["POST"]),
            Route("/answer/{number:int}", replies(answer), methods=["POST"]),
        ]
    )


def serve(service: Service, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until a signal; `ready` is told the address. Raises EditError where it cannot be had."""
    try:
        import uvicorn
    except ImportError:
        raise missing_extra("uvicorn", "serve", "edit eval study serve") from None
    import socket

    app = application(service)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # whoever is told the address may come at once
    except OSError as error:
        listening.close()
        raise EditError(f"{host}:{port}: {error.strerror}", hint="another --port, or 0 for a free one") from error
    name = f"[{host}]" if family == socket.AF_INET6 else host
    ready(f"http://{name}:{listening.getsockname()[1]}/")
    try:
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
    finally:
        listening.close()
        service.store.close()
