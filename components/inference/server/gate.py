"""The gate before all routes: an id for each request, keys, rates, and bodies that are neither too large nor too deep.

Written as plain ASGI, since it stands before every answer. Nothing of a body is read before the key is known. Keys
guard `/v1/`; health, metrics and the playground's page hold nothing of anyone. What a route raises and nobody expected
ends here as 500, in the log with its traceback and to the client without.
"""

import asyncio
import math
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.inference.server.desk import Ask
from components.inference.server.errors import GONE, ApiError, api_error
from components.inference.server.keys import Keys
from components.inference.server.limits import TokenBuckets, deeper
from components.inference.server.metrics import Metrics
from components.inference.server.settings import Settings

GUARDED = "/v1/"
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")


class Gate:
    """keys: None lets all in who come by a local name."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys | None, metrics: Metrics) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.buckets = TokenBuckets(settings.limits.rate, settings.limits.burst)
        self._after: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        ask = scope["ask"] = Ask(str(uuid.uuid4()), "", started, started + self.settings.timeout)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = ask.id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            receive = await self._admit(scope, receive, ask)
            await self.app(scope, receive, sending)
        except Exception as error:
            told = api_error(error)
            if not status and told.status != GONE:
                await told.response()(scope, receive, sending)
            status = status or told.status
        finally:
            path = getattr(scope.get("route"), "path", "")  # the template: a path would be a series each
            self.metrics.answers.labels(path, str(status or GONE)).inc()
            for work in ask.after:
                task = asyncio.get_running_loop().create_task(work)
                self._after.add(task)
                task.add_done_callback(self._after.discard)

    async def _admit(self, scope: Scope, receive: Receive, ask: Ask) -> Receive:
        """Who asks, how long for, and a `receive` that has the whole body. ApiError for whom is not let in."""
        headers = Headers(scope=scope)
        ask.owner = self._owner(scope, headers)
        guarded = scope["path"].startswith(GUARDED)  # a flood is not to make a watchman think the server dead
        if guarded and (wait := self.buckets.take(ask.owner)):
            self._reject("rate")
            raise ApiError(429, "Too many requests: slow down.", "rate_limit_exceeded", retry_after=wait)
        if asked := headers.get("x-request-timeout"):
            ask.deadline = ask.started + min(self.settings.timeout, _seconds(asked))
        return await self._body(headers, receive)

    def _owner(self, scope: Scope, headers: Headers) -> str:
        client = scope.get("client")
        address = client[0] if client else "unknown"
        if not self.keys:  # only a page of this machine may ask: no name that a stranger points here
            if headers.get("host", "").rpartition(":")[0].lower() not in LOCAL and headers.get("host") not in LOCAL:
                raise ApiError(403, "Without keys the server answers to local names only.", "host_not_allowed")
            return address
        if not scope["path"].startswith(GUARDED):
            return address
        scheme, _, key = headers.get("authorization", "").partition(" ")
        owner = self.keys.owner(key.strip()) if scheme.lower() == "bearer" and key else None
        if owner is None:
            self._reject("key")
            raise ApiError(401, "No valid API key: send Authorization: Bearer KEY.", "invalid_api_key")
        return f"key {owner}"

    async def _body(self, headers: Headers, receive: Receive) -> Receive:
        limits = self.settings.limits
        stated = headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,12}", stated) or int(stated) > limits.body:
            self._reject("size")
            raise ApiError(413, f"The body is larger than {limits.body:,} bytes.", "too_large")
        body = bytearray()
        more = True
        try:
            async with asyncio.timeout(limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(GONE, "The client has gone.")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limits.body:
                        self._reject("size")
                        raise ApiError(413, f"The body is larger than {limits.body:,} bytes.", "too_large")
        except TimeoutError:
            raise ApiError(408, f"The body took longer than {limits.body_seconds:g} s.", "timeout") from None
        if "json" in headers.get("content-type", "").lower() and deeper(bytes(body), limits.depth):
            self._reject("depth")
            raise ApiError(400, f"The JSON nests deeper than {limits.depth}.", "too_deep")
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return replay

    def _reject(self, reason: str) -> None:
        self.metrics.rejected.labels(reason).inc()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ApiError(400, "x-request-timeout is a number of seconds above 0.", "invalid_value", "x-request-timeout")
    return seconds
