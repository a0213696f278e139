"""The transformer itself: positions, blocks and a norm, over tokens that a modality has made.

Sequences of mixed length come padded with a mask, or packed into one row without padding, which computes on real tokens
alone.

Initialisation: weights are drawn with standard deviation sqrt(2 / 5d) (Nguyen & Salazar 2019, "small init"), and the
two projections that end on the residual path are divided by sqrt(2 depth), so that the sum of all branches keeps the
scale of one (Radford et al. 2019, section 2.3). "constant" is BERT's and GPT-2's 0.02 everywhere.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.attention.cache import Cache, SlotCache
from components.attention.config import Softmax
from components.attention.multi_head import core
from components.attention.positions import Place, Places, positions
from components.attention.view import View
from components.training.activations import run_block
from components.training.config import Activations
from components.transformer.block import Block
from components.transformer.config import TransformerConfig
from components.transformer.drop_path import rates
from components.transformer.norm import norm

CONSTANT = 0.02  # deviation of all weights with `initialise: constant`


class Stack(nn.Module):
    """config.depth blocks for up to `context` tokens; `scale` is the standard deviation of the tokens that come in.

    norm_first: normalise the tokens with their positions too, before the first block (CLIP's image tower).
    """

    activations: Activations = "keep"  # what the backward pass computes again (training/activations.py)

    def __init__(
        self, config: TransformerConfig, *, context: int, scale: float, causal: bool = False, norm_first: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        place = Place(context, config.width, config.heads, scale, config.features, causal, config.rotary_base)
        self.positions = positions(config.positions, place)
        self.dropout = nn.Dropout(config.dropout if config.position_dropout is None else config.position_dropout)
        self.blocks = nn.ModuleList(
            Block(config, self._core(context, causal), layer, rate)
            for layer, rate in enumerate(rates(config.drop_path, config.depth))
        )
        self.norm_first = norm(config) if norm_first else None
        self.norm = norm(config)  # of the last tokens; with post-norm, whose blocks end in one, of the first
        self._initialise()

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b m"] | None = None,
        cache: Cache | SlotCache | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Contextual tokens, normalised.

        mask: True where a token is real, None when all are (no mask is faster); with a cache, of all tokens so far.
        cache: the tokens follow those already in it, and join them; with slots, each row at its own length, unmasked.
        lengths: the one row of tokens holds sequences of so many tokens, which do not see each other.
        ValueError when a sequence exceeds the context, the lengths are not those of the row, or the mask is of another
        kind: one of 0 and 1 would be added to the scores.
        """
        if isinstance(cache, SlotCache):
            if mask is not None or lengths is not None:
                raise ValueError("rows of a slot cache are one sequence of real tokens each: no mask, no lengths")
            places, view = self._slot_view(tokens.shape[1], cache)
        else:
            places, view = self._view(tokens, mask, cache, lengths)
        tokens = self.positions.embed(tokens, places)
        if self.norm_first is not None:
            tokens = self.norm_first(tokens)
        post = self.config.norm_place == "post"
        tokens = self.dropout(self.norm(tokens) if post else tokens)
        for block in self.blocks:
            tokens = run_block(self.activations, block, tokens, view)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return tokens if post else self.norm(tokens)

    def cache(self, batch: int) -> Cache:
        """Room for the keys and values of `batch` rows over the whole context, in the weights' type."""
        weight = next(self.blocks.parameters())
        config, context = self.config, self.positions.context
        return Cache(config.depth, batch, config.groups, context, config.features, weight.dtype, weight.device)

    def slots(self, slots: int) -> SlotCache:
        """Room for so many rows of their own lengths. ValueError for attention that asks where a query is."""
        if not isinstance(self.config.attention, Softmax):
            raise ValueError(
                f"rows of their own lengths need softmax attention, not {self.config.attention.kind}: "
                "decode it in batches of one length"
            )
        weight = next(self.blocks.parameters())
        config, context = self.config, self.positions.context
        return SlotCache(config.depth, slots, config.groups, context, config.features, weight.dtype, weight.device)

    def _slot_view(self, tokens: int, cache: SlotCache) -> tuple[Places, View]:
        """So many tokens of each row, at its own places: they see their row up to themselves."""
        self.positions.span(max(cache.lengths), tokens)
        places = cache.aim(tokens)
        if isinstance(places, slice):
            bias = self.positions.bias(tokens, cache.width)
            return places, View(None, self.positions.rotation(places), bias, cache=cache)
        later = torch.arange(cache.width, device=places.device) > places[:, None, :, None]
        bias = self.positions.bias_at(places, cache.width)
        if bias is None:
            bias = torch.zeros(later.shape, device=places.device)
        bias = bias.masked_fill(later, -torch.inf).to(cache.keys.dtype)
        return places, View(None, self.positions.rotation(places), bias, cache=cache)

    def _view(
        self, tokens: Tensor, mask: Tensor | None, cache: Cache | None, lengths: Sequence[int] | None
    ) -> tuple[Places, View]:
        """The tokens' places, and what they may see."""
        start = 0 if cache is None else cache.length
        if lengths is None:
            places: Places = self.positions.span(start, tokens.shape[1])
            queries, keys = tokens.shape[1], start + tokens.shape[1]
            rows = tokens.shape[0]
            if mask is not None and (mask.dtype, mask.shape) != (torch.bool, (rows, keys)):
                raise ValueError(
                    f"the mask is {mask.dtype} {list(mask.shape)}: for {rows} rows of {keys} tokens, cached ones "
                    f"included, it must be torch.bool [{rows}, {keys}], True where a token is real"
                )
        else:
            if mask is not None or cache is not None or tokens.shape[:2] != (1, sum(lengths)):
                raise ValueError(
                    f"lengths {list(lengths)} are of one row of {sum(lengths)} tokens without mask or cache, "
                    f"not of {list(tokens.shape[:2])}"
                )
            queries = keys = max(lengths)
            self.positions.span(0, keys)
            places = torch.cat([torch.arange(length, device=tokens.device) for length in lengths])
        view = View(
            mask,
            self.positions.rotation(places),
            self.positions.bias(queries, keys),
            None if lengths is None else tuple(lengths),
            cache,
        )
        return places, view

    def _core(self, context: int, causal: bool) -> nn.Module:
        config = self.config
        return core(
            config.attention,
            causal=causal,
            context=context,
            features=config.features,
            dropout=config.attention_dropout,
        )

    def _initialise(self) -> None:
        scaled = self.config.initialise == "scaled"
        deviation = math.sqrt(2 / (5 * self.config.width)) if scaled else CONSTANT
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                ends = scaled and name.endswith("project_out")
                nn.init.normal_(module.weight, std=deviation / (math.sqrt(2 * self.config.depth) if ends else 1.0))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
