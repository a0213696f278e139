"""Errors as clients get them: OpenAI's shape, the right status, one sentence, and nothing of the inside."""

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from components.inference.batching import Overloaded
from components.inference.engine.stream import Busy

log = logging.getLogger(__name__)
GONE = 499  # nginx's number for a client that went away before its answer; no client ever sees it
LONGEST = 500  # characters of a message, which may hold a field's name as the client wrote it
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error for the client. `code`: for programs; `param`: the field that is wrong."""

    def __init__(self, status: int, message: str, code: str = "", param: str = "", retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        message, param = (text.encode("utf-8", "replace").decode()[:LONGEST] for text in (self.message, self.param))
        return {"error": {"message": message, "type": kind, "param": param or None, "code": self.code or None}}

    def response(self) -> JSONResponse:
        headers = {"retry-after": str(self.retry_after)} if self.retry_after else {}
        if self.status in (408, 413):
            headers["connection"] = "close"  # what is left of the body is not read
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def api_error(error: BaseException) -> ApiError:
    """What a client is told of an error; one that nobody expected is logged with its traceback and told as 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Overloaded | Busy):
        wait = max(1, math.ceil(error.seconds))
        return ApiError(429, "The server is at its limit: try again later.", "overloaded", retry_after=wait)
    if isinstance(error, TimeoutError):
        return ApiError(504, "The answer was not ready by the request's deadline.", "deadline_exceeded")
    log.error("an answer failed", exc_info=error)
    return ApiError(500, "The server failed on this request. It was logged.", "internal_error")


def install(app: FastAPI) -> None:
    """Have the app answer every error in this shape."""

    @app.exception_handler(ApiError)
    async def _own(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        message = f"{place}: {first['msg']}" if place else first["msg"]
        return ApiError(400, message, "invalid_value", place).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        response = ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path}").response()
        response.headers.update(error.headers or {})
        return response
