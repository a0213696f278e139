"""Models that are compared in training: ours and others' of one size, on one batch that all share."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.encoders.masked_language import MaskedLanguageModel
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.transformer.config import TransformerConfig

CHOSEN = 0.15  # share of tokens to guess


@dataclass(frozen=True)
class Size:
    depth: int
    width: int
    heads: int
    vocabulary: int
    batch: int
    length: int


SIZES = {"small": Size(6, 384, 6, 8192, 8, 256), "350m": Size(24, 1024, 16, 32768, 8, 2048)}


@dataclass
class Peer:
    name: str
    model: nn.Module
    loss: Callable[[], Tensor]  # forward pass


def decoder_peers(size: Size, device: torch.device, nanogpt: Path | None) -> list[Peer]:
    """Ours first; without dropout, output matrix tied to the embedding, attention by SDPA."""
    ids = torch.randint(size.vocabulary, (size.batch, size.length + 1), device=device)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    shape = TransformerConfig(size.width, size.depth, size.heads, bias="none")
    own = CausalDecoder(DecoderConfig(shape, size.length), size.vocabulary)
    llama, gpt2, wrapper = llama_of(size), gpt2_of(size), x_transformer_of(size)
    peers = [
        Peer("tsumugi", own, lambda: own.loss(inputs, targets)),
        Peer("transformers Llama", llama, lambda: cross_entropy(llama(inputs).logits, targets)),
        Peer("transformers GPT-2", gpt2, lambda: cross_entropy(gpt2(inputs).logits, targets)),
        Peer("x-transformers", wrapper, lambda: cross_entropy(wrapper(inputs), targets)),
    ]
    if nanogpt:
        nano = load_nanogpt(nanogpt, size)
        peers.append(Peer("nanoGPT", nano, lambda: nano(inputs, targets)[1]))
    for peer in peers:
        peer.model.to(device).train()
    return peers


def llama_of(size: Size) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=size.width,
            intermediate_size=size.width * 8 // 3,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            max_position_embeddings=size.length,
            tie_word_embeddings=True,
            **_common(size),
        )
    )


def gpt2_of(size: Size) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=size.width,
            n_layer=size.depth,
            n_head=size.heads,
            n_positions=size.length,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **_common(size),
        )
    )


def _common(size: Size) -> dict[str, Any]:
    return {"vocab_size": size.vocabulary, "use_cache": False, "bos_token_id": None, "eos_token_id": None}


def x_transformer_of(size: Size) -> nn.Module:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(
        dim=size.width,
        depth=size.depth,
        heads=size.heads,
        attn_dim_head=size.width // size.heads,
        rotary_pos_emb=True,
        attn_flash=True,
    )
    return TransformerWrapper(
        num_tokens=size.vocabulary, max_seq_len=size.length, attn_layers=layers, tie_embedding=True
    )


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def load_nanogpt(checkout: Path, size: Size) -> nn.Module:
    """GPT of the checkout's model.py."""
    path = checkout / "model.py"
    specification = importlib.util.spec_from_file_location("nanogpt", path)
    if specification is None or specification.loader is None or not path.is_file():
        raise SystemExit(f"{path} is missing: give the path of a checkout of nanoGPT")
    module = importlib.util.module_from_spec(specification)
    sys.modules["nanogpt"] = module
    specification.loader.exec_module(module)
    config = module.GPTConfig(
        block_size=size.length,
        vocab_size=size.vocabulary,
        n_layer=size.depth,
        n_head=size.heads,
        n_embd=size.width,
        dropout=0.0,
        bias=False,
    )
    return module.GPT(config)


def masked_peers(size: Size, device: torch.device) -> tuple[list[Peer], int]:
    """Both learn the same chosen tokens of the same texts; the number of useful tokens a step comes with them."""
    from transformers import BertConfig, BertForMaskedLM

    lengths = torch.linspace(32, 256, 16).int()[torch.randperm(16)].tolist()
    ids = torch.randint(size.vocabulary, (16, max(lengths)), device=device)
    mask = torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]
    chosen = (torch.rand(ids.shape, device=device) < CHOSEN) & mask
    labels = ids.where(chosen, -100)
    shape = TransformerConfig(size.width, size.depth, size.heads, positions="learned", norm_place="post")
    own = MaskedLanguageModel(TextEncoder(TextConfig(shape, 256), size.vocabulary))
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            max_position_embeddings=256,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    row, guessed, wanted = ids[mask][None], chosen[mask][None], ids[chosen]
    peers = [
        Peer("tsumugi, packed", own, lambda: F.cross_entropy(own(row, None, guessed, lengths).float(), wanted)),
        Peer(
            "transformers BERT, padded",
            bert,
            lambda: bert(input_ids=ids, attention_mask=mask.long(), labels=labels).loss,
        ),
    ]
    for peer in peers:
        peer.model.to(device).train()
    return peers, int(mask.sum())
