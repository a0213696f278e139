"""FAVOR+ a chunk of tokens at a time (Choromanski et al. 2021, Algorithm 1), with a backward pass written out.

What a plain form records for autograd is m features for every token, four times the tokens themselves and more; here
both passes make the features of a chunk, use them and drop them. Causal, the sum over earlier chunks is carried along
and the chunk itself is done as a small triangle; backward it is carried forth for the queries and back for the keys.

Stabilisation. A key's feature i is exp(w_i.k - |k|^2/2 - M_i), M_i the largest such exponent so far, and a query's is
exp(w_i.q + M_i - R), R its own largest: M and R cancel (as does a query's |q|^2/2, left out), no exponent is above 0,
and every query has a weight of 1 somewhere, unless its keys lie e^69 below a later one of the same chunk. The paper
adds 1e-6 to each feature instead, which biases what is small. M and R are constants to the gradient: they cancel.
Letters: b batch, h heads, g heads of keys and values, r = h/g, n tokens, c features of a head, m random features, s
tokens of a chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 128  # tokens: a causal chunk's triangle costs s/c of a token's share, a smaller chunk more calls
LEAST = 1e-30  # a sum of weights below is none: there is no real key
FLOOR = -1e30  # M of no key yet; finite, so that differences are


@dataclass(frozen=True)
class Chunks:
    """Features, a chunk at a time; queries of one group as rows of one matrix, [b g r*s c]."""

    directions: Tensor  # [m c], with softmax's scale: c^(-1/4) for queries and for keys
    scale: float
    mask: Tensor | None  # [b n]
    share: int  # r

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor, mask: Tensor | None, directions: Tensor) -> "Chunks":
        scale = queries.shape[3] ** -0.25
        return cls(directions * scale, scale, mask, queries.shape[1] // keys.shape[1])

    def spans(self, length: int) -> Iterator[slice]:
        return (slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK))

    def rows(self, tensor: Tensor, span: slice) -> Tensor:
        """[b h n ...] -> [b g r*s ...]"""
        return tensor[:, :, span].unflatten(1, (-1, self.share)).flatten(2, 3)

    def put(self, tensor: Tensor, span: slice, rows: Tensor) -> None:
        """The inverse of `rows`."""
        tensor[:, :, span] = rows.unflatten(2, (self.share, -1)).flatten(1, 2)

    def key_exponents(self, keys: Tensor, span: slice) -> Tensor:
        """[b g s m]"""
        chunk = keys[:, :, span]
        exponents = chunk @ self.directions.T
        exponents -= chunk.square().sum(3, keepdim=True) * (self.scale**2 / 2)
        return exponents if self.mask is None else exponents.masked_fill_(~self.mask[:, None, span, None], -torch.inf)

    def query_features(self, queries: Tensor, span: slice, largest: Tensor) -> Tensor:
        """[b g r*s m]"""
        exponents = (self.rows(queries, span) @ self.directions.T).add_(largest)
        return exponents.sub_(exponents.amax(3, keepdim=True)).exp_()

    def query_gradient(self, by_feature: Tensor, features: Tensor) -> Tensor:
        return by_feature.mul_(features) @ self.directions

    def key_gradient(self, by_feature: Tensor, features: Tensor, chunk: Tensor) -> Tensor:
        by_exponent = by_feature.mul_(features)
        return by_exponent @ self.directions - chunk * by_exponent.sum(3, keepdim=True) * self.scale**2


class Sums:
    """Sums over keys: features times values, [b g m c], and features, [b g m 1], as of the largest exponents."""

    def __init__(self, keys: Tensor, chunks: Chunks) -> None:
        room = (*keys.shape[:2], chunks.directions.shape[0])
        self.largest = keys.new_full((*keys.shape[:2], 1, room[2]), FLOOR)
        self.values = keys.new_zeros((*room, keys.shape[3]))
        self.weights = keys.new_zeros((*room, 1))

    def move(self, largest: Tensor) -> None:
        """Express the sums as of other largest exponents."""
        factor = (self.largest - largest).exp().transpose(2, 3)
        self.values *= factor
        self.weights *= factor
        self.largest = largest

    def raise_to(self, exponents: Tensor) -> None:
        self.move(torch.maximum(self.largest, exponents.amax(2, keepdim=True)))

    def add(self, features: Tensor, values: Tensor, weights: Tensor | None = None) -> None:
        """weights: of each row, [b g s 1]; 1 where there are none."""
        across = features.transpose(2, 3)
        self.values += across @ values
        self.weights += across.sum(3, keepdim=True) if weights is None else across @ weights


def _like(tensor: Tensor) -> Tensor:
    """Room laid out [b n h c], as SDPA does it: merging the heads then copies nothing."""
    return torch.empty_like(tensor.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


def _divide(chunks: Chunks, span: slice, total: Tensor, weight: Tensor, out: Tensor, inverses: Tensor) -> None:
    inverse = torch.where(weight > LEAST, 1 / weight, 0.0)
    chunks.put(out, span, total * inverse)
    chunks.put(inverses, span, inverse)


def _cotangents(chunks: Chunks, span: slice, cotangent: Tensor, out: Tensor, inverses: Tensor) -> tuple[Tensor, Tensor]:
    """Of the weighted sum of values, [b g r*s c], and of the sum of weights, [b g r*s 1]."""
    by_total = chunks.rows(cotangent, span) * chunks.rows(inverses, span)
    return by_total, -(by_total * chunks.rows(out, span)).sum(3, keepdim=True)


class Full(torch.autograd.Function):
    """Every query sees every real key."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, directions: Tensor
    ) -> Tensor:
        chunks = Chunks.of(queries, keys, mask, directions)
        sums, spans = Sums(keys, chunks), list(chunks.spans(keys.shape[2]))
        for span in spans:
            exponents = chunks.key_exponents(keys, span)
            sums.raise_to(exponents)
            sums.add(exponents.sub_(sums.largest).exp_(), values[:, :, span])
        out, inverses = _like(queries), queries.new_empty((*queries.shape[:3], 1))
        for span in spans:
            features = chunks.query_features(queries, span, sums.largest)
            _divide(chunks, span, features @ sums.values, features @ sums.weights, out, inverses)
        ctx.save_for_backward(queries, keys, values, out, inverses)
        ctx.chunks, ctx.sums = chunks, sums
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, out, inverses = ctx.saved_tensors
        chunks, sums = ctx.chunks, ctx.sums
        by_query, by_key, by_value = _like(queries), _like(keys), _like(values)
        with torch.autocast(queries.device.type, enabled=False):
            by_sums = Sums(keys, chunks)
            for span in chunks.spans(keys.shape[2]):
                features = chunks.query_features(queries, span, sums.largest)
                by_total, by_weight = _cotangents(chunks, span, cotangent, out, inverses)
                by_feature = (by_total @ sums.values.mT).addcmul_(by_weight, sums.weights.mT)
                by_sums.add(features, by_total, by_weight)
                chunks.put(by_query, span, chunks.query_gradient(by_feature, features))
            for span in chunks.spans(keys.shape[2]):
                features = chunks.key_exponents(keys, span).sub_(sums.largest).exp_()
                by_feature = (values[:, :, span] @ by_sums.values.mT).add_(by_sums.weights.mT)
                by_value[:, :, span] = features @ by_sums.values
                by_key[:, :, span] = chunks.key_gradient(by_feature, features, keys[:, :, span])
        return by_query, by_key, by_value, None, None


class Causal(torch.autograd.Function):
    """Every query sees the real keys that come no later."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, directions: Tensor
    ) -> Tensor:
        chunks = Chunks.of(queries, keys, mask, directions)
        sums, largest = Sums(keys, chunks), []
        out, inverses = _like(queries), queries.new_empty((*queries.shape[:3], 1))
        for span in chunks.spans(keys.shape[2]):
            exponents = chunks.key_exponents(keys, span)
            sums.raise_to(exponents)
            largest.append(sums.largest)
            features = chunks.query_features(queries, span, sums.largest)
            key_features = exponents.sub_(sums.largest).exp_()
            pairs = _earlier(features @ key_features.mT, chunks.share)
            total = (features @ sums.values).add_(pairs @ values[:, :, span])
            weight = (features @ sums.weights).add_(pairs.sum(3, keepdim=True))
            _divide(chunks, span, total, weight, out, inverses)
            sums.add(key_features, values[:, :, span])
        ctx.save_for_backward(queries, keys, values, out, inverses)
        ctx.chunks, ctx.largest = chunks, largest
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(cotangent.device.type, enabled=False):
            by_query = _causal_by_query(ctx, cotangent)
            return by_query, *_causal_by_key_and_value(ctx, cotangent), None, None


def _causal_by_query(ctx: Any, cotangent: Tensor) -> Tensor:
    queries, keys, values, out, inverses = ctx.saved_tensors
    chunks, sums, by_query = ctx.chunks, Sums(keys, ctx.chunks), _like(queries)
    for span, largest in zip(chunks.spans(keys.shape[2]), ctx.largest, strict=True):
        sums.move(largest)
        key_features = chunks.key_exponents(keys, span).sub_(largest).exp_()
        by_total, by_weight = _cotangents(chunks, span, cotangent, out, inverses)
        by_pair = _earlier((by_total @ values[:, :, span].mT).add_(by_weight), chunks.share)
        by_feature = (by_total @ sums.values.mT).addcmul_(by_weight, sums.weights.mT).add_(by_pair @ key_features)
        features = chunks.query_features(queries, span, largest)
        chunks.put(by_query, span, chunks.query_gradient(by_feature, features))
        sums.add(key_features, values[:, :, span])
    return by_query


def _causal_by_key_and_value(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """From the last chunk to the first: a key matters to the queries that come later."""
    queries, keys, values, out, inverses = ctx.saved_tensors
    chunks, by_sums, by_key, by_value = ctx.chunks, Sums(keys, ctx.chunks), _like(keys), _like(values)
    by_sums.largest = -ctx.largest[-1]  # a sum over queries scales the other way
    for span, largest in reversed(list(zip(chunks.spans(keys.shape[2]), ctx.largest, strict=True))):
        by_sums.move(-largest)
        features = chunks.query_features(queries, span, largest)
        key_features = chunks.key_exponents(keys, span).sub_(largest).exp_()
        by_total, by_weight = _cotangents(chunks, span, cotangent, out, inverses)
        by_pair = _earlier((by_total @ values[:, :, span].mT).add_(by_weight), chunks.share)
        pairs = _earlier(features @ key_features.mT, chunks.share)
        by_feature = (values[:, :, span] @ by_sums.values.mT).add_(by_sums.weights.mT).add_(by_pair.mT @ features)
        by_value[:, :, span] = (key_features @ by_sums.values).add_(pairs.mT @ by_total)
        by_key[:, :, span] = chunks.key_gradient(by_feature, key_features, keys[:, :, span])
        by_sums.add(features, by_total, by_weight)
    return by_key, by_value


def _earlier(pairs: Tensor, share: int) -> Tensor:
    """[b g r*s s] with zeros where the key comes after the query."""
    return pairs.unflatten(2, (share, -1)).tril_().flatten(2, 3)
