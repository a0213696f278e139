"""Chat and text completions, at once or as server-sent events."""

import json
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from components.decoders.config import SamplingConfig
from components.inference.server import chat
from components.inference.server.completion import Completion
from components.inference.server.desk import Ask, Attempt, Desk, Task
from components.inference.server.errors import GONE, ApiError, api_error
from components.inference.server.runners import Decoding
from components.inference.server.schemas import PROBLEMS, ChatBody, CompletionBody, Sampled

Choice = Callable[[str, str | None], dict[str, Any]]  # text and finish reason -> one choice of an answer


class Begun:
    """A completion with its first piece drawn: what could refuse it has passed. trim: leave out leading blanks."""

    def __init__(self, completion: Completion, trim: bool) -> None:
        self.completion, self.trim = completion, trim
        self._pieces = self._shown()
        self.first = ""

    async def start(self) -> None:
        self.first = await anext(self._pieces, "")

    async def pieces(self) -> AsyncIterator[str]:
        if self.first:
            yield self.first
        async for piece in self._pieces:
            yield piece

    async def text(self) -> str:
        return "".join([piece async for piece in self.pieces()])

    async def _shown(self) -> AsyncIterator[str]:
        trim = self.trim
        async for piece in self.completion:
            if shown := piece.lstrip() if trim else piece:
                trim = False
                yield shown


class Answer:
    """One completion for a client: its envelope, whole or in pieces. kind: OpenAI's name of the object."""

    def __init__(self, desk: Desk, request: Request, task: Task, body: Sampled, kind: str, prefix: str) -> None:
        self.desk, self.request, self.task, self.body = desk, request, task, body
        self.kind, self.id, self.created = kind, prefix + Ask.of(request).id, int(time.time())

    async def respond(self, prompt: str, most: int | None, stops: list[str], whole: Choice, piece: Choice) -> Response:
        limit = self.desk.settings.limits.characters
        if len(prompt) > limit:
            raise ApiError(400, f"The prompt has more than {limit:,} characters.", "context_length_exceeded")
        temperature = 1.0 if self.body.temperature is None else float(self.body.temperature)
        sampling = SamplingConfig(temperature=temperature, top_p=float(self.body.top_p or 1.0))
        seed = random.getrandbits(63) if self.body.seed is None else self.body.seed
        stream = bool(self.body.stream)

        async def compute(attempt: Attempt) -> Begun:
            runner = attempt.deployment.running(Decoding)
            completion = await runner.start(prompt, sampling, most, seed, stops, attempt.deadline)
            begun = Begun(completion, trim=self.kind.startswith("chat"))
            try:
                await begun.start()
                self._first_token(attempt)
                if not stream:
                    begun.first = await begun.text()
            except BaseException:
                completion.cancel()
                raise
            return begun

        attempt, begun = await self.desk.begin(self.request, self.task, compute, Begun.text)
        headers = {"x-tsumugi-version": attempt.version}
        if stream:
            return EventStream(self._events(attempt, begun, piece), lambda: self._end(attempt, begun, GONE), headers)
        text = begun.first
        self._end(attempt, begun, 200, text)
        body = self._envelope(attempt, [whole(text, begun.completion.finish)]) | {"usage": _usage(begun.completion)}
        return JSONResponse(body, headers=headers)

    def _envelope(self, attempt: Attempt, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.task.name,
            "system_fingerprint": attempt.version,
            "choices": choices,
        }

    async def _events(self, attempt: Attempt, begun: Begun, piece: Choice) -> AsyncIterator[str]:
        options, text = self.body.stream_options, ""
        usage = bool(options and options.include_usage)
        extra = {"usage": None} if usage else {}
        try:
            yield _event(self._envelope(attempt, [piece("", None)]) | extra)
            async for part in begun.pieces():
                text += part
                yield _event(self._envelope(attempt, [piece(part, None)]) | extra)
            yield _event(self._envelope(attempt, [piece("", begun.completion.finish)]) | extra)
            if usage:
                yield _event(self._envelope(attempt, []) | {"usage": _usage(begun.completion)})
            self._end(attempt, begun, 200, text)
        except Exception as error:  # the status has left already: the error is an event
            told = api_error(error)
            self._end(attempt, begun, told.status, text)
            yield _event(told.body())
        yield "data: [DONE]\n\n"

    def _first_token(self, attempt: Attempt) -> None:
        seconds = time.monotonic() - attempt.started
        self.desk.metrics.first.labels(self.task.name, attempt.version).observe(seconds)

    def _end(self, attempt: Attempt, begun: Begun, status: int, text: str = "") -> None:
        """Free what the answer holds and write it down; only the first call counts."""
        completion = begun.completion
        completion.cancel()
        attempt.finish(status, {"text": text, "finish": completion.finish}, completion.prompt_tokens, completion.tokens)


class EventStream(StreamingResponse):
    """Server-sent events. `ended` is called in the end, also where the client went before the first event."""

    def __init__(self, events: AsyncIterator[str], ended: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(events, headers=headers | {"cache-control": "no-cache"}, media_type="text/event-stream")
        self.ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ended()


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _usage(completion: Completion) -> dict[str, int]:
    read, wrote = completion.prompt_tokens, completion.tokens
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def router(desk: Desk) -> APIRouter:
    routes = APIRouter(responses=PROBLEMS)

    @routes.post("/v1/chat/completions", summary="Answer a chat")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        messages = [(message.role, message.text) for message in body.messages]
        task = desk.task(request, body.model, "decoder", body.user, {"messages": messages})
        answer = Answer(desk, request, task, body, "chat.completion" + ".chunk" * bool(body.stream), "chatcmpl-")

        def whole(text: str, finish: str | None) -> dict[str, Any]:
            message = {"role": "assistant", "content": text, "refusal": None}
            return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}

        def piece(text: str, finish: str | None) -> dict[str, Any]:
            delta = {} if finish else {"content": text} if text else {"role": "assistant", "content": ""}
            return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

        most = body.max_completion_tokens or body.max_tokens
        return await answer.respond(chat.prompt(messages), most, [*body.stops, chat.STOP], whole, piece)

    @routes.post("/v1/completions", summary="Continue a text")
    async def completions(body: CompletionBody, request: Request) -> Response:
        prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
        task = desk.task(request, body.model, "decoder", body.user, {"prompt": prompt})
        answer = Answer(desk, request, task, body, "text_completion", "cmpl-")

        def piece(text: str, finish: str | None) -> dict[str, Any]:
            return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}

        return await answer.respond(prompt, body.max_tokens or 16, body.stops, piece, piece)

    return routes
