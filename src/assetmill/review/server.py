"""The review page as a web application: routes that turn requests into calls of the desk, and the server under them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from assetmill.deliver.decision_files import decisions_as
from assetmill.deliver.picture import PictureError
from assetmill.operate.adopting import MAX_BYTES
from assetmill.records import InputError, Problem
from assetmill.review.desk import SOURCES, Desk, Seat, UnknownAsset
from assetmill.review.filters import SORTS, STATUSES, parse_filter
from assetmill.review.pictures import MEDIA_TYPE
from assetmill.review.security import (
    Door,
    Guard,
    clean_name,
    give_pass,
    read_cookies,
    read_name,
    write_name,
)
from assetmill.review.views import card_json, decision_json
from assetmill.storage.decisions import StaleDecision
from assetmill.storage.store import CorruptObject, MissingObject, StoreUnavailable

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
MAX_BODY = 512 * 2**10
"""Largest post, in bytes; pictures from outside have a limit of their own."""

MAX_CARDS = 200
"""Most assets that one request may ask for."""

MODULES = ("api.js", "bar.js", "compare.js", "dialogs.js", "dom.js", "model.js", "sheet.js", "single.js", "zoom.js")
"""What main.js is made of: named in the page, so that they are fetched side by side and not one after the other."""

NAME_COOKIE = "assetmill_reviewer"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
_YEAR = 365 * 24 * 3600


def make_app(desk: Desk, door: Door) -> ASGIApp:
    """The application over a desk, everything behind the door."""
    page = Page(desk, door)
    zipped = Middleware(GZipMiddleware, minimum_size=2048, compresslevel=1)  # pictures are compressed already
    api = [
        Route("/start", page.start),
        Route("/overview", page.overview),
        Route("/assets", page.assets),
        Route("/cards", page.cards),
        Route("/assets/{key}", page.detail),
        Route("/assets/{key}/decide", page.decide, methods=["POST"]),
        Route("/assets/{key}/reject-all", page.reject_all, methods=["POST"]),
        Route("/assets/{key}/adopt", page.adopt, methods=["POST"]),
        Route("/bulk", page.bulk, methods=["POST"]),
        Route("/undo", page.undo, methods=["POST"]),
        Route("/name", page.name, methods=["POST"]),
        Route("/reload", page.reload, methods=["POST"]),
    ]
    routes = [
        Route("/", page.shell),
        Route("/enter", page.enter, methods=["GET", "POST"]),
        Mount("/api", routes=api, middleware=[zipped]),
        Route("/export/decisions.{form}", page.export),
        Route("/thumbnails/{blob}.webp", page.thumbnail),
        Route("/pictures/{blob}.webp", page.picture),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _explain_http,
        UnknownAsset: partial(_explain, 404, "there is no such asset; reload the page"),
        InputError: _explain_input,
        PictureError: _explain_input,
        StoreUnavailable: partial(_explain, 503, "the store does not answer; try again"),
        CorruptObject: partial(_explain, 410, "what is stored is damaged"),
        MissingObject: partial(_explain, 404, "that picture is not stored any more"),
        ClientDisconnect: partial(_explain, 400, "the post was cut off"),
        # Nothing of an unforeseen error is told: its text may hold paths and secrets. The log has all of it.
        Exception: partial(_explain, 500, "this should not have happened; the server's log says more"),
    }

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(desk.log.fold)  # so that the next start reads them at once

    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    return Guard(app, door)  # outside of everything: answers to unforeseen errors get the headers too


class Page:
    """The routes. Those without a body run in threads, since they read the store."""

    def __init__(self, desk: Desk, door: Door) -> None:
        from jinja2 import Environment, FileSystemLoader

        self.desk = desk
        self.door = door
        self._templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)

    # --- pages ---

    def shell(self, request: Request) -> Response:
        """The page itself; what it shows is fetched by its scripts."""
        session: str = request.state.session
        text = self._templates.get_template("page.html").render(
            config=self.desk.config.name, csrf=self.door.csrf_token(session), modules=MODULES
        )
        return HTMLResponse(text)

    async def enter(self, request: Request) -> Response:
        """Where the token is asked for, on other hosts than loopback."""
        wrong = False
        if request.method == "POST":
            fields = parse_qs((await _body(request, 4096)).decode("utf-8", "replace"))
            if self.door.is_token(fields.get("token", [""])[0]):
                answer = RedirectResponse("/", 303)
                give_pass(answer, self.door, request.state.session)
                return answer
            wrong = True
        text = self._templates.get_template("enter.html").render(config=self.desk.config.name, wrong=wrong)
        return HTMLResponse(text, 403 if wrong else 200)

    # --- looking ---

    def start(self, request: Request) -> Response:
        """What the page needs once."""
        gallery = self.desk.gallery
        return JSONResponse(
            {
                "config": self.desk.config.name,
                "name": self._seat(request).name,
                "runs": [asdict(run) for run in gallery.runs],
                "facets": gallery.facets,
                "reasons": list(self.desk.config.review.reasons),
                "sources": list(SOURCES),
                "statuses": STATUSES,
                "sorts": SORTS,
                "policy": self.desk.config.publish.policy,
                "candidates": self.desk.config.candidates,
                "pictures": gallery.num_pictures,
                "read_at": self.desk.read_at,
            }
        )

    def overview(self, request: Request) -> Response:
        self.desk.catch_up()
        found = self.desk.overview(self._seat(request), request.query_params.get("run", ""))
        return JSONResponse({**found, "progress": asdict(found["progress"])})

    def assets(self, request: Request) -> Response:
        """The keys of all assets that pass the filter, and the first cards."""
        wanted = parse_filter(request.query_params)
        self.desk.catch_up()
        keys = [card.key for card in self.desk.find(wanted)]
        first = self.desk.cards(keys[:40], self._seat(request))
        return JSONResponse({"keys": keys, "cards": first})

    def cards(self, request: Request) -> Response:
        keys = request.query_params.get("keys", "").split(",")[:MAX_CARDS]
        return JSONResponse({"cards": self.desk.cards(keys, self._seat(request))})

    def detail(self, request: Request) -> Response:
        return JSONResponse(self.desk.detail(request.path_params["key"], self._seat(request)))

    def thumbnail(self, request: Request) -> Response:
        return self._picture(request, self.desk.pictures.thumbnail)

    def picture(self, request: Request) -> Response:
        return self._picture(request, self.desk.pictures.large)

    def export(self, request: Request) -> Response:
        """All decisions as a file."""
        forms = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
        form = request.path_params["form"]
        if form not in forms:
            raise HTTPException(404)
        self.desk.log.refresh()
        headers = {"content-disposition": f'attachment; filename="{self.desk.config.name}-decisions.{form}"'}
        return Response(decisions_as(list(self.desk.log), f".{form}"), media_type=forms[form], headers=headers)

    # --- deciding ---

    async def decide(self, request: Request) -> Response:
        post = await _post(request)
        values: dict[str, Any] = {
            "blob": _text(post, "blob"),
            "reason": _text(post, "reason"),
            "note": _text(post, "note"),
            "undoes": _whole(post, "undoes", 0),
            "override": _mapping(post, "override"),
            "order": _texts(post, "order"),
            "run": _text(post, "run"),
        }
        return await self._decide(
            request,
            lambda key, seat: [self.desk.decide(key, _text(post, "kind"), _whole(post, "seen"), seat, **values)],
        )

    async def reject_all(self, request: Request) -> Response:
        post = await _post(request)
        return await self._decide(
            request,
            lambda key, seat: self.desk.reject_all(
                key, _whole(post, "seen"), seat, reason=_text(post, "reason"), order=_texts(post, "order"),
                run=_text(post, "run"),
            ),
        )  # fmt: skip

    async def adopt(self, request: Request) -> Response:
        """Takes in a picture from outside: the file is the body, the rest stands in the address."""
        if not request.headers.get("content-type", "").startswith("image/"):
            raise HTTPException(415, "send a picture")
        data = await _body(request, MAX_BYTES)
        query = request.query_params
        values = {name: query.get(name, "") for name in ("source", "name", "licence", "note")}
        seen = _whole({"seen": int(text) if (text := query.get("seen", "")).isdecimal() else text}, "seen")
        return await self._decide(request, lambda key, seat: [self.desk.adopt(key, seen, seat, data, **values)])

    async def bulk(self, request: Request) -> Response:
        """Approves the best of many assets; with `dry`, says how many that would be."""
        post = await _post(request)
        seat = self._seat(request, named=True)

        def work() -> Response:
            wanted = parse_filter({k: str(v) for k, v in _mapping(post, "filter").items()})
            threshold = post.get("threshold")
            if threshold is not None and not isinstance(threshold, (int, float)):
                raise InputError(Problem("threshold is no number", "give a score, or leave it out"))
            choice = self.desk.bulk_choice(wanted, max(_whole(post, "top", 1), 1), threshold)
            if post.get("dry"):
                return JSONResponse({"assets": len(choice), "pictures": sum(len(blobs) for _, blobs in choice)})
            made, stale = self.desk.approve_in_bulk(choice, seat, run=_text(post, "run"))
            keys = list(dict.fromkeys(d.asset_key for d in made))
            return JSONResponse(
                {
                    "decisions": [[d.asset_key, d.number] for d in made],
                    "stale": stale,
                    "cards": self.desk.cards(keys[:MAX_CARDS], seat),
                }
            )

        return await run_in_threadpool(work)

    async def undo(self, request: Request) -> Response:
        """Takes a bulk of decisions back."""
        post = await _post(request)
        seat = self._seat(request, named=True)
        wanted = post.get("decisions")
        if not isinstance(wanted, list) or not all(
            isinstance(w, list) and len(w) == 2 and isinstance(w[0], str) and type(w[1]) is int for w in wanted
        ):
            raise InputError(Problem("decisions is no list of pairs", "give [[asset key, number], …]"))

        def work() -> Response:
            made, stale = self.desk.undo([(key, number) for key, number in wanted], seat)
            keys = list(dict.fromkeys(d.asset_key for d in made))
            return JSONResponse({"undone": len(made), "stale": stale, "cards": self.desk.cards(keys[:MAX_CARDS], seat)})

        return await run_in_threadpool(work)

    async def name(self, request: Request) -> Response:
        """Keeps the reviewer's name for a year."""
        name = clean_name(_text(await _post(request), "name"))
        if not name:
            raise InputError(Problem("the name is empty", "give the one your colleagues know"))
        answer = JSONResponse({"name": name})
        answer.headers.append(
            "set-cookie",
            f"{NAME_COOKIE}={write_name(name)}; Path=/; Max-Age={_YEAR}; HttpOnly; SameSite=Strict",
        )
        return answer

    async def reload(self, request: Request) -> Response:
        """Reads what runs have left since."""
        await run_in_threadpool(self.desk.reload)
        return JSONResponse({"read_at": self.desk.read_at})

    # --- inside ---

    def _seat(self, request: Request, *, named: bool = False) -> Seat:
        name = read_name(read_cookies(request.headers).get(NAME_COOKIE, ""))
        if named and not name:
            raise HTTPException(428, "say who you are first")
        blind = request.query_params.get("blind") == "1"
        return Seat(name, self.door.blind_seed(request.state.session) if blind else "")

    async def _decide(self, request: Request, make: Callable[[str, Seat], Sequence[Any]]) -> Response:
        key, seat = request.path_params["key"], self._seat(request, named=True)

        def work() -> Response:
            try:
                made = make(key, seat)
            except StaleDecision as error:
                self.desk.log.refresh()
                answer = {"error": str(error), "stale": True, "taken": error.taken and decision_json(error.taken)}
                return JSONResponse({**answer, "card": self._card(key, seat)}, 409)
            return JSONResponse({"decisions": [decision_json(d) for d in made], "card": self._card(key, seat)})

        return await run_in_threadpool(work)

    def _card(self, key: str, seat: Seat) -> dict[str, Any]:
        return card_json(self.desk.card(key), self.desk.log.of(key), seat.blind_seed)

    def _picture(self, request: Request, make: Callable[[str, str], bytes]) -> Response:
        blob = request.path_params["blob"]
        media_type = self.desk.media_type(blob) if _DIGEST.fullmatch(blob) else None
        if media_type is None:
            raise HTTPException(404, "there is no such picture")
        return Response(make(blob, media_type), media_type=MEDIA_TYPE, headers=_FOREVER)


# --- posts --------------------------------------------------------------------------------------------------


async def _body(request: Request, limit: int) -> bytes:
    """The body, read no further than a limit."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise HTTPException(413, f"more than {limit:,} bytes; send less")
        parts.append(part)
    return b"".join(parts)


async def _post(request: Request) -> Mapping[str, Any]:
    """The JSON object of a post."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "send application/json")
    try:
        value = json.loads(await _body(request, MAX_BODY))
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the post is no JSON") from error
    if not isinstance(value, dict):
        raise HTTPException(400, "the post is no JSON object")
    return value


def _text(post: Mapping[str, Any], name: str) -> str:
    value = post.get(name, "")
    if not isinstance(value, str):
        raise InputError(Problem(f"{name} is no text", "send a text"))
    return value


def _whole(post: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = post.get(name, default)
    if type(value) is not int or not 0 <= value < 2**31:
        raise InputError(Problem(f"{name} is no whole number", "send a count"))
    return value


def _texts(post: Mapping[str, Any], name: str) -> list[str]:
    value = post.get(name, [])
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise InputError(Problem(f"{name} is no list of texts", "send a list"))
    return value


def _mapping(post: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = post.get(name, {})
    if not isinstance(value, dict):
        raise InputError(Problem(f"{name} is no object", "send names and values"))
    return value


# --- errors -------------------------------------------------------------------------------------------------


async def _explain_http(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _explain_input(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _explain(status: int, message: str, request: Request, error: Exception) -> Response:
    if status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, error)
    return JSONResponse({"error": message}, status)
