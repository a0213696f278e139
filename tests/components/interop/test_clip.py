"""open_clip's CLIP: vectors and state dicts, there and back; parts that ours lacks."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.contrastive.towers import TwoTowers
from components.encoders.image import ImageEncoder, TimmImageEncoder
from components.encoders.image_config import TimmConfig
from components.encoders.text import TextEncoder
from components.interop import clip
from components.interop.files import load_settings, load_tensors, save
from tests.components.interop.references import randomised

VISION = {"image_size": 24, "patch_size": 6, "width": 48, "layers": 3, "head_width": 12}
TEXT = {"context_length": 12, "vocab_size": 40, "width": 32, "heads": 4, "layers": 2}
KINDS = {
    "gelu": {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT},
    "quick": {"embed_dim": 20, "quick_gelu": True, "vision_cfg": VISION | {"mlp_ratio": 3.0}, "text_cfg": TEXT},
    "no-first-norm": {"embed_dim": 20, "vision_cfg": VISION | {"no_ln_pre": True}, "text_cfg": TEXT},
}
CLOSE = {"atol": 1e-5, "rtol": 0}  # measured: 3e-6; an epsilon of 1e-6 for 1e-5 shows as 6e-4


def build(model: dict):
    from open_clip.model import CLIP

    return randomised(CLIP(**deepcopy(model)))


def towers(shape: clip.Shape) -> TwoTowers:
    return TwoTowers(ImageEncoder(shape.image), TextEncoder(shape.text, shape.vocabulary), shape.space).eval()


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    torch.manual_seed(0)
    settings = {"model_cfg": KINDS[request.param]}
    reference, ours = build(KINDS[request.param]), towers(clip.shape(settings))
    clip.fill(ours, settings, reference.state_dict())
    return reference, ours


@pytest.fixture(scope="module")
def batch():
    """Pictures, and texts that end in 39 with zeros behind, as CLIP's tokenizer makes them."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 39, (4, 12), generator=generator)
    ends = torch.tensor([[11], [4], [7], [0]])
    ids = ids.scatter(1, ends, 39).masked_fill(torch.arange(12) > ends, 0)
    return torch.rand(4, 3, 24, 24, generator=generator), ids


def normalised(images: torch.Tensor) -> torch.Tensor:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (images - mean) / deviation


@torch.no_grad()
def test_vectors_of_pictures_and_texts(pair, batch):
    reference, ours = pair
    images, ids = batch
    seen, read, scale = reference(normalised(images), ids)
    own = ours(images, ids, clip.real(ids))
    for mine, theirs in zip(own, (seen, read, scale), strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)
    assert (read[0] @ read[1:].T).max() < 0.99  # texts are told apart


@torch.no_grad()
def test_vectors_before_they_are_brought_to_unit_length(pair, batch):
    reference, ours = pair
    images, ids = batch
    seen = ours.project_image(ours.image(images).pooled)
    torch.testing.assert_close(seen, reference.encode_image(normalised(images)), **CLOSE)
    read = ours.project_text(ours.text(ids, clip.real(ids)).pooled)
    torch.testing.assert_close(read, reference.encode_text(ids), **CLOSE)


def test_the_state_dict_comes_back_with_the_same_bits(pair):
    reference, ours = pair
    tensors = clip.tensors(ours)
    assert tensors.keys() == reference.state_dict().keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in reference.state_dict().items())


@torch.no_grad()
def test_a_written_folder_is_built_by_open_clip_itself(pair, batch, tmp_path: Path):
    import open_clip

    reference, ours = pair
    images, ids = batch
    config, weights = "open_clip_config.json", "open_clip_model.safetensors"
    save(tmp_path, clip.describe(ours), clip.tensors(ours), config=config, weights=weights)
    again = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    assert torch.equal(again.encode_image(images), reference.encode_image(images))
    assert torch.equal(again.encode_text(ids), reference.encode_text(ids))
    assert again.visual.preprocess_cfg["mean"] == list(ours.image.config.mean)
    settings = load_settings(tmp_path / config)
    own = towers(clip.shape(settings))
    clip.fill(own, settings, load_tensors(tmp_path, weights))
    assert all(torch.equal(weight, own.state_dict()[name]) for name, weight in ours.state_dict().items())


@torch.no_grad()
def test_a_trained_bias_of_the_projection_goes_into_the_positions(batch):
    torch.manual_seed(0)
    ours = towers(clip.shape({"model_cfg": KINDS["gelu"]}))
    ours.image.stem.project.bias.normal_()
    again = build(KINDS["gelu"])
    again.load_state_dict(clip.tensors(ours))
    expected = again.encode_image(normalised(batch[0]))
    torch.testing.assert_close(ours.project_image(ours.image(batch[0]).pooled), expected, **CLOSE)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision_cfg", {"ls_init_value": 0.1}, "ls_init_value is 0.1, and only None is known here"),
        ("vision_cfg", {"pool_type": "avg"}, "pool_type is 'avg', and only 'tok' is known here"),
        (
            "vision_cfg",
            {"timm_model_name": "vit_x"},
            "vision_cfg has timm_model_name = 'vit_x', a part that is unknown",
        ),
        ("text_cfg", {"pool_type": "last"}, "pool_type is 'last', and only 'argmax' is known here"),
        ("text_cfg", {"hf_model_name": "x"}, "text_cfg has hf_model_name = 'x', a part that is unknown here"),
        ("text_cfg", {"heads": 5}, "width 32 does not divide by heads 5"),
    ],
)
def test_parts_that_ours_lacks_are_refused_by_name(part, change, message):
    model = KINDS["gelu"] | {part: KINDS["gelu"][part] | change}
    with pytest.raises(ValueError, match=message):
        clip.shape({"model_cfg": model})


def test_other_settings_towers_and_weights_are_refused():
    with pytest.raises(ValueError, match="model_cfg with vision_cfg and text_cfg is missing"):
        clip.shape({"embed_dim": 3})
    with pytest.raises(ValueError, match="model_cfg has init_logit_bias = -10, a part that is unknown here"):
        clip.shape({"model_cfg": KINDS["gelu"] | {"init_logit_bias": -10}})
    settings = {"model_cfg": KINDS["gelu"]}
    ours, tensors = towers(clip.shape(settings)), build(KINDS["gelu"]).state_dict()
    with pytest.raises(ValueError, match="the towers are of other settings than x.safetensors: .*'quick_gelu': False"):
        clip.fill(ours, {"model_cfg": KINDS["quick"]}, tensors, "x.safetensors")
    with pytest.raises(ValueError, match="x.safetensors is of another model: it lacks visual.proj$"):
        clip.fill(ours, settings, {k: v for k, v in tensors.items() if k != "visual.proj"}, "x.safetensors")
    with pytest.raises(ValueError, match="it has logit_bias, which ours has no place for$"):
        clip.fill(ours, settings, tensors | {"logit_bias": torch.zeros(())})
    with pytest.raises(ValueError, match=r"visual.conv1.weight is \[48, 3, 6, 5\], and \[48, 3, 6, 6\] is wanted$"):
        clip.fill(ours, settings, tensors | {"visual.conv1.weight": torch.zeros(48, 3, 6, 5)})


def test_towers_that_open_clip_cannot_represent_are_refused():
    shape = clip.shape({"model_cfg": KINDS["gelu"]})
    rotary = replace(shape.text, transformer=replace(shape.text.transformer, positions="rotary"))
    with pytest.raises(ValueError, match="^positions rotary is none of open_clip's text tower's, which .*learned"):
        clip.describe(towers(replace(shape, text=rotary)))
    with pytest.raises(ValueError, match="^text.pool mean is none of open_clip's CLIP, which asks for last$"):
        clip.tensors(towers(replace(shape, text=replace(shape.text, pool="mean"))))
    with pytest.raises(ValueError, match="^image.pool mean is none of"):
        clip.describe(towers(replace(shape, image=replace(shape.image, pool="mean"))))
    timm = TimmImageEncoder(TimmConfig("vit_tiny_patch16_224", 16, 8))
    with pytest.raises(ValueError, match="^towers of TimmImageEncoder and TextEncoder are none of open_clip's CLIP"):
        clip.describe(TwoTowers(timm, TextEncoder(shape.text, 40), 20))
