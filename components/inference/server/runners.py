"""What runs a loaded model, by its kind: an engine for a decoder, batchers for encoders. Each warms up and closes."""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from components.decoders.config import SamplingConfig
from components.inference.batching import Batcher
from components.inference.server.completion import Completion, Spelling
from components.inference.server.errors import ApiError
from components.inference.server.pictures import Picture, PictureIndex
from components.inference.server.served import Kind, Served
from components.inference.server.settings import Settings

LONG = 2_000  # characters above which a text is tokenised in a thread: about a millisecond


class Tools(NamedTuple):
    """What a runner gets beside its model."""

    settings: Settings
    name: str
    seen: Callable[[int], None]  # told the size of each batch
    pictures: Sequence[Picture]


@runtime_checkable
class Runner(Protocol):
    @property
    def waiting(self) -> int:
        """Requests in its queues."""
        ...

    def warm(self) -> None:
        """Compute once, so that the first request finds all set up."""
        ...

    def close(self) -> None:
        """End its threads, once nobody asks any more."""
        ...


class Decoding:
    """A decoder behind an engine that decodes many streams together."""

    def __init__(self, served: Served, tools: Tools) -> None:
        from components.data.tokenizer import EOS, SPECIAL
        from components.inference.engine.engine import Engine

        model = served.model
        self.tokenizer, self.end, self.context = model.tokenizer, EOS, model.decoder.context
        self.tokenizer.encode_special_tokens = True  # in a prompt <eos> is five letters, and ends nothing
        self.spelling = Spelling(self.tokenizer, len(SPECIAL))
        self.engine = Engine(model.decoder, EOS, tools.settings.slots)

    @property
    def waiting(self) -> int:
        return self.engine.statistics().waiting

    async def start(
        self,
        text: str,
        sampling: SamplingConfig,
        most: int | None,
        seed: int,
        stops: Sequence[str],
        deadline: float,
    ) -> Completion:
        """Begin an answer to `text`, of up to `most` tokens (None: as many as fit)."""
        encode = self.tokenizer.encode
        if len(text) > LONG:
            ids = (await asyncio.to_thread(encode, text, add_special_tokens=False)).ids
        else:
            ids = encode(text, add_special_tokens=False).ids
        ids = [self.end, *ids]
        room = self.context - len(ids)
        if room < (most or 1):
            raise ApiError(
                400,
                f"{len(ids)} tokens of prompt and {most or 1} asked for exceed the model's context of {self.context}.",
                "context_length_exceeded",
                "messages",
            )
        stream = self.engine.submit(ids, sampling, most or room, seed, deadline)
        return Completion(stream, self.spelling, stops)

    def warm(self) -> None:
        for _ in self.engine.submit([self.end] * 2, SamplingConfig(temperature=0.0), 2, 0, time.monotonic() + 60):
            pass

    def close(self) -> None:
        self.engine.close()


class Embedded(NamedTuple):
    vector: Any  # float32 [space], unit length
    tokens: int


class Searching:
    """Two towers: texts and pictures as vectors of one space, and the pictures nearest to one."""

    def __init__(self, served: Served, tools: Tools) -> None:
        self.model, self.tools = served.model, tools
        self.model.tokenizer.encode_special_tokens = True  # <pad> in a text is no padding
        config = tools.settings.batch
        self._model_lock = threading.Lock()  # its two batchers take turns: a model is computed by one thread at a time
        self.index = PictureIndex(tools.pictures, self.model.embed_images) if tools.pictures else None
        # the threads begin last: nobody would end them if something before failed
        self.texts: Batcher[str, Embedded] = Batcher(self._texts, config, f"{tools.name} texts", tools.seen)
        self.images: Batcher[bytes, Embedded] = Batcher(self._images, config, f"{tools.name} images", tools.seen)

    @property
    def waiting(self) -> int:
        return self.texts.waiting + self.images.waiting

    def _texts(self, texts: list[str]) -> list[Embedded]:
        read = self.model.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        with self._model_lock:
            vectors = np.asarray(self.model.embed_texts(texts), np.float32)
        longest = self.model.context
        return [Embedded(vector, min(len(row.ids), longest)) for vector, row in zip(vectors, read, strict=True)]

    def _images(self, images: list[bytes]) -> list[Embedded]:
        with self._model_lock:
            vectors = np.asarray(self.model.embed_images([{"image": image} for image in images]), np.float32)
        return [Embedded(vector, 0) for vector in vectors]

    def warm(self) -> None:
        for row in self._texts(["warm"]) + self._images([_blank()]):
            _check_finite(row.vector)

    def close(self) -> None:
        self.texts.close()
        self.images.close()


class Hearing:
    """A recogniser of speech."""

    def __init__(self, served: Served, tools: Tools) -> None:
        self.model = served.model
        self.longest: float = self.model.config.longest  # seconds
        self.sounds: Batcher[bytes, str] = Batcher(self._hear, tools.settings.batch, tools.name, tools.seen)

    @property
    def waiting(self) -> int:
        return self.sounds.waiting

    def _hear(self, sounds: list[bytes]) -> list[str]:
        return self.model.transcribe([{"sound": sound} for sound in sounds])

    def warm(self) -> None:
        import soundfile

        file = io.BytesIO()
        soundfile.write(file, np.zeros(8000), 8000, format="WAV")
        self._hear([file.getvalue()])

    def close(self) -> None:
        self.sounds.close()


class Classifying:
    """A classifier of texts, or of pictures where its model has no tokenizer."""

    def __init__(self, served: Served, tools: Tools) -> None:
        self.model = served.model
        self.medium = "text" if hasattr(self.model, "tokenizer") else "image"
        if self.medium == "text":
            self.model.tokenizer.encode_special_tokens = True
        self.items: Batcher[str | bytes, Any] = Batcher(self._classify, tools.settings.batch, tools.name, tools.seen)

    @property
    def waiting(self) -> int:
        return self.items.waiting

    def _classify(self, items: list[str | bytes]) -> list[Any]:
        """Probabilities, float [classes], of each text or picture."""
        return list(self.model.classify([{self.medium: item} for item in items]))

    def warm(self) -> None:
        _check_finite(self._classify(["warm" if self.medium == "text" else _blank()])[0])

    def close(self) -> None:
        self.items.close()


def _blank() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


def _check_finite(figures: Any) -> None:
    if not np.isfinite(figures).all():
        raise ValueError("what it computes is not finite: its weights are of no use")


RUNNERS: dict[Kind, Callable[[Served, Tools], Runner]] = {
    "decoder": Decoding,
    "search": Searching,
    "recogniser": Hearing,
    "classifier": Classifying,
}
