"""Speech encoder and recogniser: features, lengths, padding, SpecAugment, CTC."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from components.encoders.recogniser import CTCHead, Recogniser, ctc_loss, greedy
from components.encoders.speech import LogMel, Masking, SpeechEncoder
from components.encoders.speech_config import FeaturesConfig, MaskingConfig, SpeechConfig
from components.transformer.config import TransformerConfig

NO_MASKING = MaskingConfig()
FEATURES = FeaturesConfig(rate=8000, mels=40)


def built(subsampling=4, positions="rotary", masking=NO_MASKING) -> SpeechEncoder:
    torch.manual_seed(0)
    transformer = TransformerConfig(width=32, depth=2, heads=4, positions=positions)
    return SpeechEncoder(SpeechConfig(transformer, 2.0, subsampling, channels=8, features=FEATURES, masking=masking))


def sounds(*lengths: int):
    """White noise of each length, zeros after it."""
    noise = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0)) * 0.1
    lengths_ = torch.tensor(lengths)
    return noise * (torch.arange(max(lengths)) < lengths_[:, None]), lengths_


def test_features_are_normalised_over_real_frames_and_zero_after():
    features, mask = LogMel(FEATURES)(*sounds(8000, 3001))
    assert mask.sum(1).tolist() == [8000 // 80 + 1, 3001 // 80 + 1]
    for row, real in zip(features, mask, strict=True):
        torch.testing.assert_close(row[real].mean(0), torch.zeros(40), atol=1e-4, rtol=0)
        torch.testing.assert_close(row[real].std(0, correction=0), torch.ones(40), atol=1e-2, rtol=0)
        assert not row[~real].any()


def test_a_whole_utterance_keeps_the_shape_of_its_spectrum():
    whole = LogMel(replace(FEATURES, normalise="whole"))
    waveforms, lengths = sounds(8000, 3001)
    features, mask = whole(waveforms, lengths)
    power = whole.mel(waveforms).log().transpose(1, 2)
    for row, real, raw in zip(features, mask, power, strict=True):
        torch.testing.assert_close(
            row[real], (raw[real] - raw[real].mean()) / raw[real].std(correction=0), atol=1e-2, rtol=0
        )
        assert not row[~real].any()


def test_loudness_does_not_matter_and_a_tone_lights_its_band():
    log_mel = LogMel(FEATURES)
    waveforms, lengths = sounds(8000)
    torch.testing.assert_close(log_mel(waveforms, lengths)[0], log_mel(waveforms * 4, lengths)[0], atol=2e-2, rtol=0)
    time = torch.arange(8000) / 8000
    tone = torch.where(time > 0.5, torch.sin(2 * math.pi * 1000 * time), torch.zeros(()))[None]  # second half only
    features = log_mel(tone + waveforms * 0.01, lengths)[0][0]
    mel = 2595 * math.log10(1 + 1000 / 700), 2595 * math.log10(1 + 4000 / 700)
    band = round(mel[0] / mel[1] * 41) - 1  # 40 triangles, evenly spaced on the mel scale
    rise = features[60:95].mean(0) - features[5:40].mean(0)
    assert abs(int(rise.argmax()) - band) <= 1
    assert rise.max() > 1.5


def test_features_do_not_feel_autocast():
    log_mel = LogMel(FEATURES)
    plain = log_mel(*sounds(8000))[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(*sounds(8000))[0], plain)


def test_silence_and_one_sample_stay_finite():
    encoder = built().eval()
    encoded = encoder(torch.zeros(2, 4000), torch.tensor([4000, 1]))
    assert encoded.tokens.isfinite().all()
    assert encoded.mask.sum(1).tolist() == [13, 1]


@pytest.mark.parametrize("subsampling", [2, 4])
@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_an_utterance_gives_the_same_tokens_alone_as_in_a_batch(subsampling, positions):
    encoder = built(subsampling, positions).eval()
    lengths = [12_345, 7_999, 2_400, 81]
    waveforms, lengths_ = sounds(*lengths)
    encoded = encoder(waveforms, lengths_)
    for row, length in enumerate(lengths):
        alone = encoder(waveforms[row : row + 1, :length], lengths_[row : row + 1])
        tokens = math.ceil((length // 80 + 1) / subsampling)
        assert alone.tokens.shape[1] == tokens == encoded.mask[row].sum()
        torch.testing.assert_close(encoded.tokens[row, :tokens], alone.tokens[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(encoded.pooled[row], alone.pooled[0], atol=1e-4, rtol=1e-4)


def test_the_longest_utterance_fits_and_a_longer_one_is_refused():
    encoder = built().eval()
    encoder(*sounds(16_000))
    with pytest.raises(ValueError, match="do not fit a context of 51"):
        encoder(*sounds(16_400))


def test_masking_hides_bands_and_spans_of_each_utterance():
    masking = Masking(MaskingConfig(bands=1, band_width=10, spans=1, span_width=15))
    torch.manual_seed(0)
    hidden = masking(torch.ones(64, 100, 40)) == 0
    bands, spans = hidden.all(1).sum(1), hidden.all(2).sum(1)
    assert bands.max() in range(6, 11)
    assert spans.max() in range(10, 16)
    assert len(set(bands.tolist())) > 3  # each utterance has its own
    assert torch.equal(hidden, hidden.all(1, keepdim=True) | hidden.all(2, keepdim=True))
    encoder = built(masking=MaskingConfig(bands=1, spans=1))
    features = encoder.features(*sounds(8000))
    assert not torch.equal(encoder.encode(*features).pooled, encoder.encode(*features).pooled)
    assert torch.equal(encoder.eval().encode(*features).pooled, encoder.encode(*features).pooled)


def test_ctc_loss_equals_the_sum_over_all_paths():
    torch.manual_seed(0)
    log_probabilities = torch.randn(1, 5, 3).log_softmax(-1)
    target = [1, 2]
    total = 0.0
    for path in itertools.product(range(3), repeat=5):
        merged = [letter for letter, _ in itertools.groupby(path) if letter]
        if merged == target:
            total += math.exp(sum(log_probabilities[0, place, letter].item() for place, letter in enumerate(path)))
    loss = ctc_loss(log_probabilities, torch.tensor([5]), torch.tensor([target]), torch.tensor([2]))
    assert loss.item() == pytest.approx(-math.log(total) / 2, abs=1e-5)


def test_ctc_loss_of_a_target_that_cannot_fit_is_zero_and_teaches_nothing():
    logits = torch.randn(2, 4, 3, requires_grad=True)
    targets = torch.tensor([[1, 1, 1, 0], [1, 2, 0, 0]])  # three equal letters need five tokens
    ctc_loss(logits.log_softmax(-1), torch.tensor([4, 4]), targets, torch.tensor([3, 2])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.any(2).any(1).tolist() == [False, True]


def test_greedy_merges_repeats_then_drops_blanks():
    paths = torch.tensor([[0, 1, 1, 0, 1, 2, 2, 3], [2, 2, 0, 0, 2, 3, 3, 3], [0] * 8])
    log_probabilities = torch.nn.functional.one_hot(paths, 4).float()
    assert greedy(log_probabilities, torch.tensor([8, 5, 8])) == [[1, 1, 2, 3], [2, 2], []]


def test_recogniser_learns_two_tones_and_every_parameter_takes_part():
    """Letters are tones of 600 and 1800 Hz, 0.1 s each; four of them in a row, in noise."""
    encoder = built()
    model = Recogniser(encoder, classes=3)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)

    def batch(size: int):
        letters = torch.randint(1, 3, (size, 4), generator=generator)
        time = torch.arange(800) / 8000
        tones = torch.stack([torch.sin(2 * math.pi * pitch * time) * (time < 0.08) for pitch in (600, 1800)])
        waveforms = tones[letters - 1].flatten(1) * 0.5
        waveforms = waveforms + 0.02 * torch.randn(waveforms.shape, generator=generator)
        return waveforms, torch.full((size,), 3200), letters

    for step in range(120):
        waveforms, lengths, letters = batch(16)
        log_probabilities, tokens = model(waveforms, lengths)
        loss = ctc_loss(log_probabilities, tokens, letters, torch.full((16,), 4))
        loss.backward()
        if step == 0:
            assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())
        optimiser.step()
        optimiser.zero_grad()
    waveforms, lengths, letters = batch(32)
    with torch.no_grad():
        heard = greedy(*model.eval()(waveforms, lengths))
    assert sum(a == b for a, b in zip(heard, letters.tolist(), strict=True)) >= 30


def test_ctc_head_gives_normalised_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        log_probabilities = CTCHead(32, 5)(torch.randn(2, 7, 32))
    assert log_probabilities.dtype == torch.float32
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(2, 7))


def test_a_window_shorter_than_its_hop_is_refused():
    with pytest.raises(ValueError, match=r"window 0.01 s is shorter than hop 0.02 s"):
        FeaturesConfig(window=0.01, hop=0.02)
