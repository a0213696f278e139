"""Routes for those who run the server and those who judge its answers: health, metrics, models, thumbs, outcomes."""

import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from components.inference.server.desk import Desk
from components.inference.server.errors import ApiError
from components.inference.server.runners import Decoding
from components.inference.server.schemas import PROBLEMS, FeedbackBody, OutcomeBody

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
PLAYGROUND = {  # where each of its files is asked for
    "/": ("playground.html", "text/html"),
    "/playground.css": ("playground.css", "text/css"),
    "/playground.js": ("playground.js", "text/javascript"),
}
POLICY = (  # nothing but its own files and its own server, in no other page's frame
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def health(routes: APIRouter, desk: Desk) -> None:
    fleet, metrics = desk.fleet, desk.metrics

    @routes.get("/healthz", summary="Whether the process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", summary="Whether every model serves, by which version, and what is missing")
    async def readyz() -> JSONResponse:
        serving = {
            name: {"champion": slot.champion.version.version, "kind": slot.champion.kind, "serial": slot.serial}
            | ({"challenger": slot.challenger.version.version} if slot.challenger else {})
            for name, slot in sorted(fleet.slots.items())
            if slot.champion
        }
        body = {"ready": fleet.ready, "serving": serving, "missing": fleet.missing()}
        return JSONResponse(body, 200 if fleet.ready else 503)

    @routes.get("/metrics", summary="Figures for Prometheus")
    async def prometheus() -> Response:
        for gauge in (metrics.waiting, *metrics.engine.values()):
            gauge.clear()
        for each in [each for slot in fleet.slots.values() for each in slot.deployments]:
            metrics.waiting.labels(each.name, each.version.version).set(each.runner.waiting)
            if isinstance(each.runner, Decoding):
                statistics = each.runner.engine.statistics()
                for figure, gauge in metrics.engine.items():
                    gauge.labels(each.name, each.version.version).set(getattr(statistics, figure))
        metrics.dropped.set(desk.traffic.dropped)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def playground(routes: APIRouter, _: Desk) -> None:
    headers = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}

    def file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
        content = files("components.inference.server").joinpath(name).read_bytes()

        async def send() -> Response:
            return Response(content, media_type=kind, headers=headers)

        return send

    for path, (name, kind) in PLAYGROUND.items():
        routes.add_api_route(path, file(name, kind), include_in_schema=False)


def models(routes: APIRouter, desk: Desk) -> None:
    def entry(name: str) -> dict[str, Any] | None:
        slot = desk.fleet.slots.get(name)
        if slot is None or slot.champion is None:
            return None
        own = {"kind": slot.champion.kind, "version": slot.champion.version.version}
        return {"id": name, "object": "model", "created": slot.since, "owned_by": "tsumugi"} | own

    @routes.get("/v1/models", summary="What is served")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [found for name in sorted(desk.fleet.slots) if (found := entry(name))]}

    @routes.get("/v1/models/{model}", summary="One of them")
    async def retrieve_model(model: str) -> dict[str, Any]:
        if found := entry(model):
            return found
        raise ApiError(404, f"The model {model[:100]!r} is not served.", "model_not_found", "model")


def judgements(routes: APIRouter, desk: Desk) -> None:
    async def answered(id: str) -> str:
        """The request's id, if its answer is known."""
        found = UUID.search(id)
        try:
            if found and await run_in_threadpool(desk.traffic.knows, found[0]):
                return found[0]
        except SQLAlchemyError:
            raise ApiError(503, "The database is away: try again.", "unavailable", retry_after=5) from None
        raise ApiError(404, "There is no answer of this id.", "not_found", "id")

    @routes.post("/v1/feedback", summary="A thumb on an answer")
    async def feedback(body: FeedbackBody) -> dict[str, str]:
        id = await answered(body.id)
        return {"id": desk.traffic.feedback(id, body.thumb, body.comment), "object": "feedback"}

    @routes.post("/v1/outcomes", summary="What came of an answer, by any measure")
    async def outcomes(body: OutcomeBody) -> dict[str, str]:
        id = await answered(body.id)
        desk.traffic.outcome(id, body.metric, float(body.value))
        return {"id": id, "object": "outcome"}


def router(desk: Desk) -> APIRouter:
    routes = APIRouter(responses=PROBLEMS)
    for add in (health, playground, models, judgements):
        add(routes, desk)
    return routes
