"""Rows of their own lengths in one cache: each equals a pass over its row alone."""

import pytest
import torch

from components.attention.config import Local
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.transformer.config import TransformerConfig


def built(positions="rotary", **shape) -> CausalDecoder:
    torch.manual_seed(0)
    config = TransformerConfig(width=32, depth=3, heads=4, positions=positions, **shape)
    decoder = CausalDecoder(DecoderConfig(config, context=80), vocabulary=50).eval()
    if positions == "relative":
        torch.nn.init.normal_(decoder.stack.positions.table.weight)
    return decoder


def admitted(decoder, slots, row) -> None:
    room = decoder.cache(1)
    decoder.hidden(row[None], room)
    slots.admit(room.keys[:, 0, :, : len(row)], room.values[:, 0, :, : len(row)])


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["none", "sinusoidal", "learned", "rotary", "alibi", "relative"])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("tokens", [1, 3])  # of each row in a pass
@pytest.mark.parametrize("lengths", [[5, 60, 31], [21, 21, 21], [40]], ids=["own", "equal", "one"])
def test_each_row_equals_a_pass_over_it_alone(positions, groups, tokens, lengths):
    decoder = built(positions, key_value_heads=groups)
    rows = [torch.randint(50, (80,)) for _ in lengths]
    slots = decoder.slots(4)
    for row, length in zip(rows, lengths, strict=True):
        admitted(decoder, slots, row[:length])
    for _ in range(3):
        step = torch.stack([row[length : length + tokens] for row, length in zip(rows, lengths, strict=True)])
        given = decoder.hidden(step, slots)
        lengths = [length + tokens for length in lengths]
        assert slots.lengths == lengths
        for row, length, hidden in zip(rows, lengths, given, strict=True):
            alone = decoder.hidden(row[None, :length])[0, -tokens:]
            torch.testing.assert_close(hidden, alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_rows_leave_and_join_and_are_set_back():
    decoder = built()
    rows = [torch.randint(50, (80,)) for _ in range(3)]
    slots = decoder.slots(2)
    admitted(decoder, slots, rows[0][:70])
    admitted(decoder, slots, rows[1][:20])
    with pytest.raises(ValueError, match="all 2 slots are in use"):
        admitted(decoder, slots, rows[2][:4])
    decoder.hidden(torch.randint(50, (2, 5)), slots)  # wrong tokens, taken back
    slots.lengths = [70, 20]
    slots.drop(0)  # row 1 takes its place
    admitted(decoder, slots, rows[2][:33])
    assert slots.lengths == [20, 33]
    given = decoder.hidden(torch.stack([rows[1][20:21], rows[2][33:34]]), slots)
    assert slots.width == 48  # reads up to the longest row in buckets, not the room
    for hidden, row, length in zip(given, rows[1:], (21, 34), strict=True):
        torch.testing.assert_close(hidden, decoder.hidden(row[None, :length])[0, -1:], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_what_does_not_fit_is_refused():
    decoder = built()
    slots = decoder.slots(1)
    admitted(decoder, slots, torch.randint(50, (79,)))
    with pytest.raises(ValueError, match="81 tokens do not fit a context of 80"):
        decoder.hidden(torch.zeros(1, 2, dtype=torch.long), slots)
    with pytest.raises(ValueError, match="no mask, no lengths"):
        decoder.hidden(torch.zeros(1, 1, dtype=torch.long), slots, mask=torch.ones(1, 80, dtype=torch.bool))
    with pytest.raises(ValueError, match="need softmax attention, not local"):
        built(attention=Local(window=5)).slots(2)
