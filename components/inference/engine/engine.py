"""Continuous batching: requests join and leave a running batch at any step (Yu et al. 2022, Orca).

One thread computes. Each round drops what was cancelled or is late, reads a bounded piece of the next prompts, and
draws the next tokens of all that run; everything else only hands requests in and tokens out. Greedy tokens are those of
decoders/sampling.py's `generate`, up to ties within rounding: a product over more rows may round otherwise.
"""

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from components.decoders.causal import CausalDecoder
from components.decoders.config import SamplingConfig
from components.inference.engine.batch import Batch
from components.inference.engine.draw import chances, draw_rows
from components.inference.engine.packed import packed
from components.inference.engine.prefill import Prefill
from components.inference.engine.prefixes import Prefixes
from components.inference.engine.request import Request
from components.inference.engine.statistics import Meter, Statistics
from components.inference.engine.stream import Busy, Closed, Reason, Stream

log = logging.getLogger(__name__)
TOGETHER = 4  # prompts read in one pass at the most: a pass over 256 tokens no longer waits for the weights
NOT_FINITE = "the decoder's numbers are not finite: look at its weights, or decode in another precision"


class Engine:
    """Decodes for many at once with one decoder, which is not to change afterwards: other weights, another engine.

    end: token that ends a text. slots: requests that decode together. queue: requests that may wait. piece: tokens of
    prompts read between two steps of what runs. prefix_bytes: for keys and values of earlier texts. guesses: tokens
    guessed a request and step at the most (draft.py); 0 for none.
    """

    def __init__(
        self,
        decoder: CausalDecoder,
        end: int | None,
        slots: int = 16,
        *,
        queue: int = 64,
        piece: int = 256,
        prefix_bytes: int = 1 << 26,
        guesses: int = 8,
    ) -> None:
        if slots < 1 or queue < 1 or piece < 1:
            raise ValueError(f"slots {slots}, queue {queue} and piece {piece} must be at least 1")
        self.end, self.queue, self.piece = end, queue, piece
        self.context, self.vocabulary, self.slots = decoder.context, decoder.output.shape[0], slots
        self._decoder = packed(decoder.eval(), slots)
        self._batch = Batch(self._decoder, decoder.slots(slots), guesses)
        self._prefixes = Prefixes(prefix_bytes)
        self._prefill = Prefill(self._decoder, decoder.slots(min(slots, TOGETHER)), self._prefixes)
        self._waiting: deque[Request] = deque()
        self._meter = Meter()
        self._changed = threading.Condition()  # guards the queue and the meter
        self._closing = self._stopped = False
        self._thread = threading.Thread(target=self._work, name="decoding engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        max_tokens: int,
        seed: int | None = None,
        deadline: float | None = None,
    ) -> Stream:
        """A stream of up to `max_tokens` tokens that follow the prompt.

        seed: the same one gives the same tokens for the same prompt; None draws one. deadline: on time.monotonic()'s
        clock. ValueError for a prompt that is empty, holds an unknown token or leaves no room in the context; Busy when
        the queue is full; Closed after `close`.
        """
        self._check(prompt, max_tokens)
        chance = chances(secrets.randbits(63) if seed is None else seed, max_tokens)
        request = Request(list(prompt), sampling, chance, deadline, Stream(len(prompt)))
        with self._changed:
            if self._closing:
                raise Closed("the engine is closed: submit to another one")
            if len(self._waiting) >= self.queue:
                raise Busy(len(self._waiting), self._meter.service * len(self._waiting) / self.slots)
            self._waiting.append(request)
            self._changed.notify_all()
        return request.stream

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def statistics(self) -> Statistics:
        with self._changed:
            return Statistics(
                waiting=self.waiting,
                active=len(self._batch.requests) + len(self._prefill.requests),
                slots=self.slots,
                cache_used=sum(self._batch.cache.lengths) / (self.slots * self.context),
                tokens_per_second=self._meter.rate(),
                tokens=self._meter.tokens,
                prompt_tokens=self._prefixes.asked,
                cached_tokens=self._prefixes.found,
                prefix_bytes=self._prefixes.bytes,
                guessed=self._batch.guessed,
                confirmed=self._batch.confirmed,
                ended=dict(self._meter.ended),
            )

    def close(self, patience: float = 0.0) -> None:
        """Take no more requests, let those that are here end for so many seconds, and end the rest with Closed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(patience)
        self._stopped = True
        self._thread.join()

    def _check(self, prompt: Sequence[int], max_tokens: int) -> None:
        if not prompt or max_tokens < 1:
            raise ValueError(f"{len(prompt)} prompt and {max_tokens} new tokens: both need at least one")
        if unknown := [token for token in prompt if not 0 <= token < self.vocabulary]:
            raise ValueError(f"token {unknown[0]} of the prompt is not one of the vocabulary's {self.vocabulary}")
        if len(prompt) + max_tokens > self.context:
            raise ValueError(
                f"{len(prompt)} prompt and {max_tokens} new tokens exceed the context of {self.context}: "
                "shorten the prompt or ask for fewer"
            )

    def _work(self) -> None:
        with torch.inference_mode():
            while self._wait():
                try:
                    self._sweep()
                    self._read()
                    self._decode()
                except Exception as error:
                    log.exception("a step failed, and %d requests with it", len(self._batch.requests))
                    self._fail(self._batch, error)
        self._fail_all(Closed("the engine was closed before the text was complete"))

    def _wait(self) -> bool:
        """Until there is something to do; False when the engine is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._busy() or self._closing)
            return not self._stopped and (self._busy() or not self._closing)

    def _busy(self) -> bool:
        return bool(self._waiting or self._prefill.requests or self._batch.requests)

    def _sweep(self) -> None:
        """End what was cancelled or is late, wherever it stands."""
        with self._changed:
            over = [request for request in self._waiting if request.over()]
            for request in over:
                self._waiting.remove(request)
        for request in over:
            self._end(request)
        for row, request in reversed(list(enumerate(self._prefill.requests))):
            if request.over():
                self._prefill.drop(row)
                self._end(request)
        for row in reversed(range(len(self._batch.requests))):
            if self._batch.requests[row].over():
                self._leave(row)

    def _read(self) -> None:
        """A piece of prompts; those that are complete draw their first token and join the batch."""
        left = self.piece
        self._begin()
        while left > 0 and self._prefill.requests:
            try:
                read, complete = self._prefill.advance(left)
                left -= read
                for row in sorted(complete, reverse=True):
                    self._join(row, complete[row])
            except Exception as error:
                log.exception("%d requests failed while their prompts were read", len(self._prefill.requests))
                self._fail(self._prefill, error)
            self._begin()

    def _begin(self) -> None:
        """Take requests from the queue as far as slots are free for them."""
        while self._waiting and len(self._batch.requests) + len(self._prefill.requests) < self.slots:
            with self._changed:
                if not self._waiting or not self._prefill.takes(self._waiting[0]):
                    return
                request = self._waiting.popleft()
            request.started = time.monotonic()
            self._prefill.begin(request)

    def _join(self, row: int, logits: Tensor | None) -> None:
        """A prompt is complete: the first token is drawn, and its request moves to the batch."""
        request, cached = self._prefill.requests[row], self._prefill.cache.row(row)
        if logits is None:
            self._spoilt(self._prefill, row)
            return
        self._prefixes.keep(request.prompt, *cached)
        reason = request.take(draw_rows(logits, [request.sampling], request.chances[:1]).tolist(), self.end)
        self._count(1)
        if reason is None:
            self._batch.admit(request, *cached)
        self._prefill.drop(row)
        if reason is not None:
            self._end(request, reason)

    def _decode(self) -> None:
        if not self._batch.requests:
            return
        drawn = self._batch.step()
        self._count(sum(map(len, drawn)))
        for row in reversed(range(len(drawn))):
            if not drawn[row]:
                self._spoilt(self._batch, row)
            elif reason := self._batch.requests[row].take(drawn[row], self.end):
                self._leave(row, reason)

    def _spoilt(self, among: Batch | Prefill, row: int) -> None:
        request = among.requests[row]
        among.cache.clear(row)
        among.drop(row)
        self._end(request, "error", ArithmeticError(NOT_FINITE))

    def _leave(self, row: int, reason: Reason | None = None) -> None:
        """A request's slot is free again; its text is remembered."""
        request, cache = self._batch.requests[row], self._batch.cache
        self._prefixes.keep((request.prompt + request.drawn)[: cache.lengths[row]], *cache.row(row))
        self._batch.drop(row)
        self._end(request, reason)

    def _count(self, tokens: int) -> None:
        with self._changed:
            self._meter.drew(tokens)

    def _end(self, request: Request, reason: Reason | None = None, error: Exception | None = None) -> None:
        reason = reason or request.over() or "error"
        with self._changed:
            self._meter.ended[reason] += 1
            if request.started:
                self._meter.served(time.monotonic() - request.started)
        request.stream.end(reason, error)

    def _fail(self, among: Batch | Prefill, error: Exception) -> None:
        for row, request in reversed(list(enumerate(among.requests))):
            among.drop(row)
            self._end(request, "error", error)

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        for request in waiting:
            self._end(request, "error", error)
        self._fail(self._prefill, error)
        self._fail(self._batch, error)
