"""Image encoders: the own stack against timm's vision transformer with the same weights; refused names and sizes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from components.attention.view import View
from components.encoders.classifier import Classifier
from components.encoders.image import ImageEncoder, PatchEmbedding, TimmImageEncoder
from components.encoders.image_config import ImageConfig, TimmConfig
from components.transformer.config import TransformerConfig

CONFIG = ImageConfig(TransformerConfig(width=48, depth=2, heads=4, positions="learned"), size=24, patch=6)


@pytest.fixture
def images():
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def test_equals_timms_vision_transformer(images):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    ours = ImageEncoder(CONFIG)
    theirs = VisionTransformer(
        img_size=24, patch_size=6, embed_dim=48, depth=2, num_heads=4, num_classes=0, class_token=False,
        global_pool="avg", fc_norm=False, norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    weights = {
        "pos_embed": ours.stack.positions.table[None],
        "patch_embed.proj.weight": ours.stem.project.weight.view(48, 3, 6, 6),
        "patch_embed.proj.bias": ours.stem.project.bias,
    }
    names = {
        "stack.blocks": "blocks", "attention_norm": "norm1", "feed_forward_norm": "norm2",
        "attention.project_in": "attn.qkv", "attention.project_out": "attn.proj",
        "feed_forward.project_in": "mlp.fc1", "feed_forward.project_out": "mlp.fc2", "stack.norm": "norm",
    }  # fmt: skip
    for name, weight in ours.state_dict().items():
        if name.startswith(("stack.blocks", "stack.norm")):
            for own, other in names.items():
                name = name.replace(own, other)
            weights[name] = weight
    theirs.load_state_dict(weights, strict=True)

    tokens = theirs.forward_features(images * 2 - 1)
    encoded = ours(images)
    torch.testing.assert_close(encoded.tokens, tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoded.pooled, theirs.forward_head(tokens), atol=1e-5, rtol=1e-5)
    assert encoded.mask.shape == (2, 16)
    assert encoded.mask.all()


def test_patches_equal_a_strided_convolution(images):
    patches = PatchEmbedding(6, 10)
    expected = nn.functional.conv2d(images, patches.project.weight.view(10, 3, 6, 6), patches.project.bias, stride=6)
    torch.testing.assert_close(patches(images), expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter(images):
    model = Classifier(ImageEncoder(CONFIG), classes=3)
    nn.init.normal_(model.head.project.weight)
    model(images).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_timms_model_gives_encoded(images):
    encoder = TimmImageEncoder(TimmConfig("vit_tiny_patch16_224", size=24, patch=6)).eval()
    encoded = encoder(images)
    assert encoded.tokens.shape == (2, 17, encoder.width)  # 16 patches and the class token
    torch.testing.assert_close(encoded.pooled, encoder.model(images * 2 - 1))
    assert encoded.mask.all()


def test_bad_shapes_and_names_are_refused(images):
    with pytest.raises(ValueError, match="size 25 does not divide by patch 6"):
        ImageConfig(CONFIG.transformer, size=25, patch=6)
    with pytest.raises(ValueError, match="24x24 pixels in an encoder for 12x12"):
        ImageEncoder(ImageConfig(CONFIG.transformer, size=12, patch=6))(images)
    with pytest.raises(ValueError, match="no vision transformer 'resnet50'"):
        TimmImageEncoder(TimmConfig("resnet50", size=24, patch=6))


def test_convolutions_make_one_token_a_patch_in_reading_order() -> None:
    encoder = ImageEncoder(ImageConfig(TransformerConfig(16, 1, 2), size=32, patch=8, stem="convolutions"))
    images = torch.zeros(1, 3, 32, 32)
    images[..., 16, 24] = 1.0  # the corner of the patch in row 2, column 3, on which its token is centred
    moved = (encoder.stem(images) - encoder.stem(torch.zeros(1, 3, 32, 32))).abs().sum(2)[0]
    assert moved.shape == (16,)
    assert moved.nonzero().tolist() == [[2 * 4 + 3]]


def test_convolutions_refuse_a_patch_that_is_no_power_of_two() -> None:
    with pytest.raises(ValueError, match="patch 6 must be"):
        ImageConfig(TransformerConfig(16, 1, 2), size=36, patch=6, stem="convolutions")


def test_class_token_stands_first_and_is_the_pooled_vector(images):
    encoder = ImageEncoder(replace(CONFIG, pool="class", norm_first=True))
    encoded = encoder(images)
    tokens = torch.cat([encoder.summary.expand(2, 1, -1), encoder.stem(images * 2 - 1)], dim=1)
    first, table = encoder.stack.get_submodule("norm_first"), encoder.stack.positions.get_parameter("table")
    tokens = first(tokens + table)
    for block in encoder.stack.blocks:
        tokens = block(tokens, View())
    torch.testing.assert_close(encoded.tokens, encoder.stack.norm(tokens))
    assert encoded.tokens.shape == (2, 17, 48) and encoded.mask.shape == (2, 17)
    torch.testing.assert_close(encoded.pooled, encoded.tokens[:, 0])
    encoded.pooled.square().sum().backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []


def test_pixels_are_normalised_by_mean_and_deviation(images):
    mean, deviation = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    plain = ImageEncoder(CONFIG)
    other = ImageEncoder(replace(CONFIG, mean=mean, deviation=deviation))
    other.load_state_dict(plain.state_dict())
    normalised = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    torch.testing.assert_close(other(images).tokens, plain((normalised + 1) / 2).tokens, atol=1e-5, rtol=1e-5)


def test_norm_first_with_post_norm_and_a_deviation_of_0_are_refused():
    with pytest.raises(ValueError, match="norm_first is for norm_place pre"):
        replace(CONFIG, transformer=replace(CONFIG.transformer, norm_place="post"), norm_first=True)
    with pytest.raises(ValueError, match="must be above 0"):
        replace(CONFIG, deviation=(0.5, 0.0, 0.5))
