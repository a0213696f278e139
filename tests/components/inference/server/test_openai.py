"""Every OpenAI route, by OpenAI's own client, against the models themselves."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from benchmarks.models import sound
from components.data.tokenizer import EOS
from components.decoders.config import SamplingConfig
from components.decoders.sampling import generate
from components.inference.server import chat
from flows.stages.loaders import load

CPU = torch.device("cpu")
GREEDY = SamplingConfig(temperature=0.0)


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def continued(small: Path, prompt: str, tokens: int) -> str:
    """What the decoder writes, by plain greedy decoding."""
    model = load(small / "models" / "decoder", CPU).model
    model.tokenizer.encode_special_tokens = True
    ids = torch.tensor([[EOS, *model.tokenizer.encode(prompt, add_special_tokens=False).ids]])
    drawn = generate(model.decoder, ids, tokens, GREEDY, torch.Generator(), EOS)[0].tolist()
    return model.tokenizer.decode([token for token in drawn if token != EOS])


def test_completions_are_the_models_own(client: openai.OpenAI, small: Path) -> None:
    answer = client.completions.create(model="decoder", prompt="a small", max_tokens=12, temperature=0)
    assert answer.choices[0].text == continued(small, "a small", 12)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12 and answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.object == "text_completion" and answer.model == "decoder"
    assert answer.system_fingerprint == "v1.0.0"


def test_a_chat_follows_the_template(client: openai.OpenAI, small: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    answer = client.chat.completions.create(model="decoder", messages=talk, max_tokens=8, temperature=0)
    prompt = chat.prompt([("system", "Be brief."), ("user", "Hi")])
    assert answer.choices[0].message.content == continued(small, prompt, 8).lstrip()
    assert answer.choices[0].message.role == "assistant" and answer.id.startswith("chatcmpl-")


@pytest.mark.parametrize("seed", [None, 7])
def test_a_stream_joins_to_the_whole(client: openai.OpenAI, seed: int | None) -> None:
    asked: dict[str, Any] = {"model": "decoder", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20}
    asked |= {"temperature": 0 if seed is None else 1, "seed": seed}
    whole = client.chat.completions.create(**asked)
    events = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(e.choices[0].delta.content or "" for e in events[:-1]) == whole.choices[0].message.content
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert events[-1].choices == [] and events[-1].usage == whole.usage
    assert len(events) > 4 and {event.id for event in events} == {events[0].id}
    written = list(client.completions.create(model="decoder", prompt="a", max_tokens=5, temperature=0, stream=True))
    again = client.completions.create(model="decoder", prompt="a", max_tokens=5, temperature=0)
    assert "".join(event.choices[0].text for event in written) == again.choices[0].text


def test_none_is_the_default(client: openai.OpenAI) -> None:
    """Clients send null for it, as OpenAI's schema allows."""
    plain: dict[str, Any] = {"model": "decoder", "seed": 3}
    none: dict[str, Any] = dict.fromkeys(("temperature", "top_p", "n", "stream", "stop", "user"))
    written = client.completions.create(**plain, prompt="a")
    again = client.completions.create(**plain, **none, prompt="a", max_tokens=None)
    assert again.choices == written.choices and again.usage == written.usage
    talk: dict[str, Any] = plain | {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 4}
    chatted = client.chat.completions.create(**talk)
    assert client.chat.completions.create(**talk, **none, max_tokens=None).choices == chatted.choices


def test_the_clients_own_helper_accumulates_a_stream(client: openai.OpenAI) -> None:
    talk: Any = [{"role": "user", "content": "Hi"}]
    asked: dict[str, Any] = {"model": "decoder", "messages": talk, "max_tokens": 5, "temperature": 0}
    with client.chat.completions.stream(**asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        message = stream.current_completion_snapshot.choices[0].message
    whole = client.chat.completions.create(**asked)
    assert (message.role, message.content) == ("assistant", text) == ("assistant", whole.choices[0].message.content)


def test_a_stop_string_ends_an_answer(client: openai.OpenAI, small: Path) -> None:
    whole = continued(small, "red", 20)
    stop = whole[5:7]
    answer = client.completions.create(model="decoder", prompt="red", max_tokens=20, temperature=0, stop=[stop])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_embeddings_as_numbers_and_as_bytes(client: openai.OpenAI, server: Any, small: Path) -> None:
    texts = ["a small red circle", "赤い丸", "<pad>"]
    model = load(small / "models" / "search", CPU).model
    model.tokenizer.encode_special_tokens = True
    expected = model.embed_texts(texts).numpy()
    numbers = client.embeddings.create(model="search", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="search", input=texts)  # the client asks for base64 by itself
    for answer in (numbers, packed):
        assert np.allclose([row.embedding for row in answer.data], expected, atol=1e-5)
    raw = httpx.post(
        server.url + "/v1/embeddings", json={"model": "search", "input": "a", "encoding_format": "base64"}
    ).json()
    assert len(base64.b64decode(raw["data"][0]["embedding"])) == 4 * expected.shape[1]
    assert numbers.usage.prompt_tokens == sum(len(model.tokenizer.encode(t, add_special_tokens=False)) for t in texts)


def test_transcriptions_in_each_form(client: openai.OpenAI, small: Path) -> None:
    data = sound(1.5)
    [said] = load(small / "models" / "recogniser", CPU).model.transcribe([{"sound": data}])
    ask: dict[str, Any] = {"model": "recogniser", "file": ("a.wav", data)}
    assert client.audio.transcriptions.create(**ask).text == said
    assert client.audio.transcriptions.create(**ask, response_format="text") == said + "\n"
    verbose = client.audio.transcriptions.create(**ask, response_format="verbose_json", language="en")
    assert (verbose.text, verbose.duration, verbose.language) == (said, 1.5, "en")
    assert verbose.segments[0].end == 1.5


def test_models_are_listed_and_told(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["classifier", "decoder", "recogniser", "search"]
    assert client.models.retrieve("search").owned_by == "tsumugi"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_errors_are_openais(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="decoder", messages=[])
    assert caught.value.type == "invalid_request_error" and caught.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="none", prompt="a")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="decoder", prompt="a " * 500)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="is a search, not a decoder"):
        client.completions.create(model="search", prompt="a")


def test_every_answer_has_an_id_and_a_version(client: openai.OpenAI) -> None:
    answer = client.embeddings.with_raw_response.create(model="search", input="a")
    assert answer.headers["x-tsumugi-version"] == "v1.0.0" and len(answer.headers["x-request-id"]) == 36
