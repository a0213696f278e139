"""Bodies of requests, as OpenAI's clients send them. A field that would be ignored is refused, not passed over."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SURROGATE = re.compile("[\ud800-\udfff]")


def _whole(text: str) -> str:
    """JSON can write half of a character that UTF-16 takes two for; no encoder takes it."""
    if not text.isascii() and SURROGATE.search(text):
        raise ValueError("half of a surrogate pair is no character")
    return text


Words = Annotated[str, AfterValidator(_whole)]
Model = Annotated[Words, Field(min_length=1, max_length=200, description="A served name; /v1/models lists them.")]
Text = Annotated[Words, Field(min_length=1)]
Stop = Annotated[Words, Field(min_length=1, max_length=100)]
INT64 = 2**63


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(Body):
    include_usage: bool = False


class Sampled(Body):
    """What chat and text completions share."""

    model: Model
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0  # null, which clients send for None: the default
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    n: Literal[1] | None = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: Annotated[Words, Field(max_length=200, description="Whom you ask for: a user stays in one arm.")] | None = (
        None
    )

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class TextPart(Body):
    type: Literal["text"]
    text: Words


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Words | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(Sampled):
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


class CompletionBody(Sampled):
    prompt: Words | Annotated[list[Words], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = 16


class EmbeddingsBody(Body):
    model: Model
    input: Text | Annotated[list[Text], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Annotated[Words, Field(max_length=200)] | None = None


class ClassifyBody(Body):
    model: Model
    input: Text | Annotated[list[Text], Field(min_length=1)]
    user: Annotated[Words, Field(max_length=200)] | None = None


class FeedbackBody(Body):
    id: Annotated[str, Field(max_length=100, description="Of an answer: x-request-id, or the body's id.")]
    thumb: Literal[-1, 1]
    comment: Annotated[Words, Field(max_length=2000)] = ""


class OutcomeBody(Body):
    id: Annotated[str, Field(max_length=100, description="Of an answer: x-request-id, or the body's id.")]
    metric: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]
    value: Annotated[float, Field(allow_inf_nan=False)]


class Problem(BaseModel):
    """An error, in OpenAI's shape."""

    error: dict[str, Any]


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "A field, or what it holds, is wrong.",
        401: "No valid API key.",
        403: "Without keys, a name that is not local.",
        404: "No such model, answer or picture.",
        413: "The body is too large.",
        429: "Too many requests: see Retry-After.",
        503: "The model is not ready.",
        504: "The deadline passed.",
    }.items()
}
