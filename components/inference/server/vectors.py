"""Routes over encoders: embeddings, classes, transcription, and search by text, picture or voice."""

import base64
import hashlib
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from components.inference.server.desk import Attempt, Desk, Task
from components.inference.server.errors import ApiError
from components.inference.server.media import check_picture, check_sound
from components.inference.server.runners import Classifying, Embedded, Hearing, Searching
from components.inference.server.schemas import PROBLEMS, ClassifyBody, EmbeddingsBody

Format = Literal["json", "text", "verbose_json"]


def headers(attempt: Attempt) -> dict[str, str]:
    return {"x-tsumugi-version": attempt.version}


def digest(data: bytes) -> dict[str, Any]:
    """What is written down of a file: enough to know it again, and not what it shows."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


async def refuse_others(request: Request, *names: str) -> None:
    """ApiError for a field of the form that would be ignored."""
    if others := sorted((await request.form()).keys() - set(names)):
        raise ApiError(400, f"The field {others[0][:100]!r} is not supported.", "unknown_parameter", others[0][:100])


async def nothing(result: Any) -> None:
    """What `Desk.begin` writes down of a shadow's vectors: none of their numbers, only that they were computed."""


def checked(texts: str | list[str], desk: Desk) -> list[str]:
    """The texts as a list, within the limits."""
    limits = desk.settings.limits
    some = [texts] if isinstance(texts, str) else texts
    if len(some) > limits.texts:
        raise ApiError(400, f"{len(some)} texts; {limits.texts} are taken at once.", "too_large", "input")
    if sum(map(len, some)) > limits.characters:
        raise ApiError(400, f"The texts have more than {limits.characters:,} characters.", "too_large", "input")
    return some


def embeddings(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/v1/embeddings", summary="Texts as unit vectors")
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        texts = checked(body.input, desk)
        task = desk.task(request, body.model, "search", body.user, {"input": texts})

        async def compute(attempt: Attempt) -> list[Embedded]:
            rows = await attempt.deployment.running(Searching).texts(texts, attempt.deadline)
            size = len(rows[0].vector)
            if body.dimensions not in (None, size):
                raise ApiError(400, f"The vectors have {size} dimensions.", "invalid_value", "dimensions")
            return rows

        attempt, rows = await desk.begin(request, task, compute, nothing)
        tokens = sum(row.tokens for row in rows)
        attempt.finish(200, prompt_tokens=tokens)
        as_asked: Callable[[Any], Any] = _base64 if body.encoding_format == "base64" else np.ndarray.tolist
        data = [{"object": "embedding", "index": i, "embedding": as_asked(row.vector)} for i, row in enumerate(rows)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": task.name, "usage": usage}
        return JSONResponse(answer, headers=headers(attempt))


def _base64(vector: Any) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def classify(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/v1/classify", summary="Texts sorted into the model's classes")
    async def classify(body: ClassifyBody, request: Request) -> Response:
        texts = checked(body.input, desk)
        return await answer(request, desk.task(request, body.model, "classifier", body.user, {"input": texts}), texts)

    @routes.post("/v1/classify/picture", summary="A picture sorted into the model's classes")
    async def picture(
        request: Request,
        image: Annotated[UploadFile, File(description="PNG, JPEG or WEBP")],
        model: Annotated[str, Form(min_length=1, max_length=200)],
    ) -> Response:
        await refuse_others(request, "image", "model")
        data = await image.read()
        await run_in_threadpool(check_picture, data, desk.settings.limits)
        return await answer(request, desk.task(request, model, "classifier", None, {"picture": digest(data)}), [data])

    async def answer(request: Request, task: Task, items: list[Any]) -> Response:
        medium = "text" if isinstance(items[0], str) else "image"

        async def compute(attempt: Attempt) -> list[dict[str, Any]]:
            runner = attempt.deployment.running(Classifying)
            if runner.medium != medium:
                raise ApiError(400, f"The model {task.name} sorts {runner.medium}s.", "invalid_value", "model")
            rows = await runner.items(items, attempt.deadline)
            named = [dict(zip(runner.model.classes, row.tolist(), strict=True)) for row in rows]
            best = [max(row, key=row.__getitem__) for row in named]
            return [
                {"index": i, "label": label, "probabilities": row}
                for i, (label, row) in enumerate(zip(best, named, strict=True))
            ]

        attempt, data = await desk.begin(request, task, compute, _labels)
        attempt.finish(200, await _labels(data))
        return JSONResponse({"object": "list", "data": data, "model": task.name}, headers=headers(attempt))


async def _labels(data: list[dict[str, Any]]) -> Any:
    return {"labels": [row["label"] for row in data], "shares": [row["probabilities"][row["label"]] for row in data]}


async def heard(
    desk: Desk, request: Request, model: str | None, file: UploadFile, step: bool = False
) -> tuple[str, float, Attempt]:
    """The transcript of an uploaded sound, the seconds that the sound lasts, and the attempt, which is finished.

    model: None for the first recogniser. step: the transcript is not the answer; it gets a row of its own.

    Raises:
        ApiError: the file is no sound within the limits, no such model serves, or it could not answer.
    """
    data = await file.read()
    seconds = await run_in_threadpool(check_sound, data, desk.settings.limits)
    task = desk.task(request, model, "recogniser", None, {"sound": digest(data) | {"seconds": seconds}}, step)

    async def compute(attempt: Attempt) -> str:
        runner = attempt.deployment.running(Hearing)
        if seconds > runner.longest:
            longest = f"{runner.longest:g}"
            raise ApiError(400, f"The sound lasts {seconds:.1f} s; the model hears {longest} s.", "too_large", "file")
        return (await runner.sounds([data], attempt.deadline))[0]

    async def written(text: str) -> dict[str, str]:
        return {"text": text}

    attempt, text = await desk.begin(request, task, compute, written)
    attempt.finish(200, {"text": text})
    return text, seconds, attempt


def transcriptions(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/v1/audio/transcriptions", summary="What is said in a sound")
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File(description="WAV, FLAC or OGG")],
        model: Annotated[str, Form(min_length=1, max_length=200)],
        response_format: Annotated[Format, Form()] = "json",
        language: Annotated[str | None, Form(max_length=20, description="told back, not used")] = None,
        temperature: Annotated[float, Form(ge=0, le=1, description="0: decoding is greedy")] = 0.0,
    ) -> Response:
        await refuse_others(request, "file", "model", "response_format", "language", "temperature")
        if temperature:
            raise ApiError(400, "Decoding is greedy: the temperature is 0.", "invalid_value", "temperature")
        text, seconds, attempt = await heard(desk, request, model, file)
        if response_format == "text":
            return PlainTextResponse(text + "\n", headers=headers(attempt))
        answer: dict[str, Any] = {"text": text}
        if response_format == "verbose_json":
            segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": text, "tokens": [], "temperature": 0.0}
            unknown = {"avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0}
            answer |= {"task": "transcribe", "language": language or "", "duration": seconds}
            answer |= {"segments": [segment | unknown]}
        return JSONResponse(answer, headers=headers(attempt))


def search(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/v1/search", summary="Pictures by a text, a picture or a voice")
    async def search(
        request: Request,
        text: Annotated[str | None, Form(min_length=1, max_length=2000)] = None,
        image: Annotated[UploadFile | None, File(description="PNG, JPEG or WEBP")] = None,
        audio: Annotated[UploadFile | None, File(description="WAV, FLAC or OGG")] = None,
        model: Annotated[str | None, Form(max_length=200)] = None,
        limit: Annotated[int, Form(ge=1, le=100)] = 12,
    ) -> Response:
        await refuse_others(request, "text", "image", "audio", "model", "limit")
        if [text, image, audio].count(None) != 2:
            raise ApiError(400, "Search by one of text, image and audio.", "invalid_value", "text")
        if not desk.fleet.pictures:
            raise ApiError(404, "No pictures to search: start the server with --pictures.", "no_pictures")
        transcript, by = None, None
        if audio is not None:
            transcript, _, hearing = await heard(desk, request, None, audio, step=True)
            by = {"model": hearing.task.name, "version": hearing.version}
            if not transcript.strip():
                raise ApiError(400, "No words were heard.", "nothing_heard", "audio")
        words = transcript or text
        data = b"" if image is None else await image.read()
        if image is not None:
            await run_in_threadpool(check_picture, data, desk.settings.limits)
        task = desk.task(request, model, "search", None, {"text": words} if words else {"picture": digest(data)})

        async def compute(attempt: Attempt) -> list[dict[str, Any]]:
            runner, deadline = attempt.deployment.running(Searching), attempt.deadline
            [row] = await (runner.texts([words], deadline) if words else runner.images([data], deadline))
            assert runner.index is not None
            near = await run_in_threadpool(runner.index.nearest, row.vector, limit)
            return [
                {"key": each.key, "score": score, "text": each.text, "url": f"/v1/pictures/{number}"}
                for number, each, score in near
            ]

        async def written(found: list[dict[str, Any]]) -> dict[str, Any]:
            return {"found": [{"key": each["key"], "score": round(each["score"], 4)} for each in found]}

        attempt, found = await desk.begin(request, task, compute, written)
        attempt.finish(200, await written(found))
        answer = {"id": attempt.id, "object": "list", "model": task.name, "data": found}
        answer |= {"transcript": transcript, "heard_by": by, "system_fingerprint": attempt.version}
        return JSONResponse(answer, headers=headers(attempt))


def pictures(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/v1/pictures/{number}", summary="One of the pictures that were found")
    async def picture(number: int) -> Response:
        if not 0 <= number < len(desk.fleet.pictures):
            raise ApiError(404, "There is no such picture.", "not_found", "number")
        found = desk.fleet.pictures[number]
        data = await run_in_threadpool(found.read)
        return Response(data, media_type=found.type, headers={"cache-control": "private, max-age=3600"})


def router(desk: Desk) -> APIRouter:
    routes = APIRouter(responses=PROBLEMS)
    for add in (embeddings, classify, transcriptions, search, pictures):
        add(routes, desk)
    return routes
