"""timm's vision transformers: logits and state dicts, there and back; parts that ours lacks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.encoders.classifier import Classifier
from components.encoders.image import ImageEncoder
from components.encoders.image_config import ImageConfig
from components.interop.files import load_settings, load_tensors, save
from components.interop.vit import read, write
from components.transformer.config import TransformerConfig
from tests.components.interop.references import randomised

SMALL = {"img_size": 24, "patch_size": 6, "embed_dim": 48, "depth": 3, "num_heads": 4}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
KINDS = {
    "plain": (SMALL, 7, {}),
    "imagenet": (SMALL | {"mlp_ratio": 3.0}, 7, IMAGENET),
    "no-head": (SMALL, 0, IMAGENET),
    "mean": (SMALL | {"class_token": False, "global_pool": "avg", "fc_norm": False}, 7, {}),
    "pre-norm-quick": (SMALL | {"pre_norm": True, "act_layer": "quick_gelu"}, 7, IMAGENET),
    "rms-head-norm": (SMALL | {"norm_layer": "rmsnorm", "qk_norm": True}, 7, {}),
}
CLOSE = {"atol": 1e-5, "rtol": 0}  # measured: 3e-6; an epsilon of 1e-6 for 1e-5 shows as 6e-4


def settings(kind: str) -> dict:
    arguments, classes, pixels = KINDS[kind]
    found = {"architecture": "vit_tiny_patch16_224", "model_args": arguments, "num_classes": classes}
    return found | {"pretrained_cfg": pixels}


def build(settings: dict):
    import timm

    model = timm.create_model(settings["architecture"], num_classes=settings["num_classes"], **settings["model_args"])
    return randomised(model)


def normalised(images: torch.Tensor, pixels: dict) -> torch.Tensor:
    mean, deviation = (torch.tensor(pixels.get(name, [0.5] * 3)).view(3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / deviation


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    torch.manual_seed(0)
    reference = build(settings(request.param))
    return request.param, reference, read(settings(request.param), reference.state_dict()).eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_tokens_and_logits(pair, images):
    kind, reference, ours = pair
    given = normalised(images, settings(kind)["pretrained_cfg"])
    encoder = ours.encoder if KINDS[kind][1] else ours
    assert isinstance(ours, Classifier) == bool(KINDS[kind][1])
    torch.testing.assert_close(encoder(images).tokens, reference.forward_features(given), **CLOSE)
    outputs = reference(given)
    assert outputs.std() > 0.1
    torch.testing.assert_close(ours(images) if KINDS[kind][1] else ours(images).pooled, outputs, **CLOSE)


def test_the_state_dict_comes_back_with_the_same_bits(pair):
    _, reference, ours = pair
    _, tensors = write(ours)
    assert tensors.keys() == reference.state_dict().keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in reference.state_dict().items())


@torch.no_grad()
def test_a_written_folder_is_built_by_timm_itself(pair, images, tmp_path: Path):
    import timm

    kind, reference, ours = pair
    about, tensors = write(ours)
    save(tmp_path, about, tensors)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    given = normalised(images, settings(kind)["pretrained_cfg"])
    assert torch.equal(again(given), reference(given))
    assert list(again.pretrained_cfg["mean"]) == about["pretrained_cfg"]["mean"]
    own = read(load_settings(tmp_path / "config.json"), load_tensors(tmp_path)).state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in ours.state_dict().items())


@torch.no_grad()
def test_a_trained_bias_of_the_projection_goes_into_the_positions_where_timm_has_none(images):
    ours = read(settings("pre-norm-quick"), build(settings("pre-norm-quick")).state_dict()).eval()
    ours.encoder.stem.project.bias.normal_()
    about, tensors = write(ours)
    again = build(about)
    again.load_state_dict(tensors)
    torch.testing.assert_close(ours(images), again(normalised(images, IMAGENET)), **CLOSE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_values": 1e-5}, "init_values is 1e-05, and only None is known here"),
        ({"reg_tokens": 4}, "reg_tokens is 4, and only 0 is known here"),
        ({"qk_norm": True}, "qk_norm normalises heads by LayerNorm, and ours by RMSNorm"),
        ({"global_pool": "avg"}, "global_pool 'avg' with class_token True and fc_norm None is unknown here"),
        ({"act_layer": "silu"}, "activation 'silu' is unknown: known are gelu"),
        ({"norm_layer": "batchnorm2d"}, "norm_layer 'batchnorm2d' is unknown"),
        ({"mlp_layer": "x"}, "model_args has mlp_layer = 'x', a part that is unknown here"),
        ({"embed_dim": 0}, "embed_dim is 0, and must be a whole number above 0"),
    ],
)
def test_parts_that_ours_lacks_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        read(settings("plain") | {"model_args": SMALL | change}, {})


def test_other_architectures_and_weights_are_refused():
    with pytest.raises(ValueError, match="architecture 'resnet50' is unknown: known are vit_SIZE_patchN_N"):
        read(settings("plain") | {"architecture": "resnet50"}, {})
    tensors = build(settings("plain")).state_dict()
    with pytest.raises(ValueError, match="w.safetensors is of another model: it lacks blocks.2.norm1.weight$"):
        read(settings("plain"), {k: v for k, v in tensors.items() if k != "blocks.2.norm1.weight"}, "w.safetensors")
    with pytest.raises(ValueError, match="it has blocks.0.ls1.gamma, which ours has no place for$"):
        read(settings("plain"), tensors | {"blocks.0.ls1.gamma": torch.ones(48)})
    with pytest.raises(ValueError, match=r"head.weight is \[7, 48\], and \[8, 48\] is wanted$"):
        read(settings("plain") | {"num_classes": 8}, tensors)
    tensors = build(settings("pre-norm-quick")).state_dict() | {"patch_embed.proj.bias": torch.ones(48)}
    with pytest.raises(ValueError, match="it has patch_embed.proj.bias, which ours has no place for$"):
        read(settings("pre-norm-quick"), tensors)


def test_encoders_that_timm_cannot_represent_are_refused():
    shape = TransformerConfig(width=48, depth=1, heads=4, positions="learned")
    with pytest.raises(ValueError, match="^norm_epsilon 1e-05 is none of timm's .* norm_epsilon 1e-06"):
        write(ImageEncoder(ImageConfig(shape, 24, 6)))
    exact = replace(shape, norm_epsilon=1e-6)
    with pytest.raises(ValueError, match="^head_norm True is none of timm's"):
        write(ImageEncoder(ImageConfig(replace(exact, head_norm=True), 24, 6)))
    with pytest.raises(ValueError, match="^stem convolutions is none of timm's"):
        write(ImageEncoder(ImageConfig(exact, 32, 8, stem="convolutions")))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch32_224", "vit_large_patch14_224"])
def test_sizes_follow_from_the_name_as_timm_has_them(name):
    import timm

    with torch.device("meta"):  # shapes alone
        theirs = timm.create_model(name)
        ours = read({"architecture": name}, theirs.state_dict())
    assert ours.encoder.config.transformer.heads == theirs.blocks[0].attn.num_heads
