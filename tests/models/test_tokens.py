"""Taps of vision transformers give the patches, whatever the network puts before them, however small the image."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from sapling import blocks
from sapling.errors import MethodError, ModelError
from sapling.grids import grid_of
from sapling.losses import maps
from sapling.models import Preprocess, TappedModel

STAGES = ("stage1", "stage2", "stage3", "stage4")
KINDS = {  # name: image size, side of the square of patches, tokens before them
    "vit_tiny_patch16_224": (48, 3, 1),
    "vit_relpos_small_patch16_224": (48, 3, 0),  # no class token: the mean of its patches
    "deit_tiny_distilled_patch16_224": (32, 2, 2),
    "vit_small_patch16_dinov3": (32, 2, 5),  # 9 tokens, as many as a square of patches would have
    "vit_small_patch14_reg4_dinov2": (28, 2, 5),
    "beit_base_patch16_224": (32, 2, 1),
    "naflexvit_base_patch16_gap": (32, 2, 4),  # registers alone
    "xcit_nano_12_p16_224": (48, 3, 1),  # its class token comes after all blocks
}


def tapped(name, taps=STAGES):
    size, *_ = KINDS[name]
    given = {} if name.startswith("naflex") else {"img_size": size}
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, depth=4, **given).eval()
    return TappedModel(model, Preprocess(size, size, (0.5,) * 3, (0.5,) * 3), taps).eval()


@pytest.mark.parametrize("name", KINDS)
def test_every_reader_sees_the_patches_where_timm_sees_them(name):
    size, side, prefix = KINDS[name]
    model = tapped(name)
    assert model.model.num_prefix_tokens == prefix
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        features = model(images).features
        _, expected = model.model.forward_intermediates(model.normalise(images), indices=4, output_fmt="NCHW")
    for stage, theirs in zip(STAGES, expected, strict=True):
        assert tuple(theirs.shape[2:]) == (side, side)
        assert model.shapes[stage] == tuple(features[stage].shape[1:]) == (side**2, theirs.shape[1])
        grid = grid_of(stage, model.shapes, side="student", method="mgd")
        for found in (maps.as_map(features[stage]), blocks.as_map(features[stage]), grid.read(features[stage])):
            torch.testing.assert_close(found, theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(maps.as_vectors(features[stage]), theirs.mean(dim=(2, 3)), rtol=0, atol=1e-5)


def test_a_module_path_gives_the_patches_too_and_the_class_token_is_the_embedding():
    model = tapped("vit_small_patch16_dinov3", ("norm", "blocks.0.mlp.fc1", "embedding"))
    assert model.shapes == {"norm": (4, 384), "blocks.0.mlp.fc1": (4, 1536), "embedding": (384,)}


def test_blocks_with_a_class_token_that_comes_late():
    """Of one network the first blocks have patches alone, the last ones a class token before them."""
    model = tapped("xcit_nano_12_p16_224", ("blocks.3", "cls_attn_blocks.0"))
    assert model.shapes == {"blocks.3": (9, 128), "cls_attn_blocks.0": (9, 128)}
    with torch.no_grad():
        rows = model.model.blocks[3].register_forward_hook(lambda *given: setattr(model, "seen", given[2]))
        found = model(torch.rand(1, 3, 48, 48)).features["blocks.3"]
    rows.remove()
    assert torch.equal(found, model.seen)


class Averaging(nn.Module):
    """A vision transformer whose classifier reads the mean over all tokens."""

    def __init__(self):
        super().__init__()
        self.patch_embed, self.block, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 5)
        self.num_prefix_tokens = 1

    def get_classifier(self):
        return self.head

    def forward(self, x):
        patches = self.patch_embed(x.flatten(2).mT)
        return self.head(self.block(torch.cat([torch.ones(len(x), 1, 4), patches], dim=1)).mean(dim=1))


@pytest.mark.parametrize("tap", ["last_map", "class_map"])
def test_a_mean_that_counts_the_class_token_is_that_of_no_map(tap):
    preprocess = Preprocess(2, 2, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ModelError, match=f"has no '{tap}': its classifier does not read the mean"):
        TappedModel(Averaging(), preprocess, (tap,))
    alone = Averaging()
    alone.num_prefix_tokens = 0
    assert TappedModel(alone, preprocess, (tap,)).shapes[tap][0] == 5


def test_an_oblong_of_patches_is_refused():
    """2 x 4 patches and a class token are nine tokens, and no square."""
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=4, img_size=32, patch_size=(16, 8)).eval()
    model = TappedModel(net, Preprocess(32, 32, (0.5,) * 3, (0.5,) * 3), ("stage4",))
    assert model.shapes == {"stage4": (8, 192)}
    with pytest.raises(MethodError, match=r"shape \[8, 192\]"):
        grid_of("stage4", model.shapes, side="student", method="mgd")
    with pytest.raises(MethodError, match=r"shape \[8, 192\]"):
        maps.map_shape(model.shapes["stage4"])
    with pytest.raises(MethodError, match="8 tokens lie on no square"):
        blocks.map_shape(model.shapes["stage4"])
