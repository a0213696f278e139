"""A recogniser: a speech encoder and a CTC head (Graves et al. 2006), which needs no alignment of letters to time.

The head says for every token a letter or "blank"; the loss sums over all ways to stretch the target over the tokens
(equation 14), and greedy decoding merges repeats, then drops blanks (section 3.2).
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.encoders.encoded import Encoded
from components.encoders.speech import SpeechEncoder

BLANK = 0  # the class "no new letter"; letters start at 1


class CTCHead(nn.Module):
    """classes: letters and the blank."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, classes)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n classes"]:
        """Log-probabilities, in float32: the loss sums hundreds of them."""
        return F.log_softmax(self.project(tokens).float(), dim=-1)


class Recogniser(nn.Module):
    def __init__(self, encoder: SpeechEncoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = CTCHead(encoder.width, classes)

    def forward(
        self, waveforms: Float[Tensor, "b samples"], lengths: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b n classes"], Int[Tensor, " b"]]:
        """Log-probabilities, and how many tokens of each utterance are real."""
        encoded: Encoded = self.encoder(waveforms, lengths)
        return self.head(encoded.tokens), encoded.mask.sum(1)


def ctc_loss(
    log_probabilities: Float[Tensor, "b n classes"],
    lengths: Int[Tensor, " b"],
    targets: Int[Tensor, "b letters"],
    target_lengths: Int[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Mean over utterances of the loss a letter. One too short for its target counts as 0 and teaches nothing."""
    return F.ctc_loss(
        log_probabilities.transpose(0, 1), targets, lengths, target_lengths, blank=BLANK, zero_infinity=True
    )


def greedy(log_probabilities: Float[Tensor, "b n classes"], lengths: Int[Tensor, " b"]) -> list[list[int]]:
    """The likeliest class of each token, repeats merged, blanks dropped: the letters of each utterance."""
    letters = []
    for best, length in zip(log_probabilities.argmax(-1), lengths.tolist(), strict=True):
        merged = best[:length].unique_consecutive().tolist()
        letters.append([letter for letter in merged if letter != BLANK])
    return letters
