from __future__ import annotations

import pytest
import torch

from sapling.errors import ModelError
from sapling.models import create_model
from sapling.models.sizes import check_size, reason_against, sizes_near


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("vit_tiny_patch16_224", 70, ("patches of 16 pixels", "multiples of 16", "--img-size 64 or --img-size 80")),
        ("swin_tiny_patch4_window7_224", 66, ("patches of 4", "--img-size 64 or --img-size 68")),
        ("inception_v3", 64, ("leave no pixel", "75 pixels or more", "--img-size 75")),
        ("vgg11", 16, ("leave no pixel", "32 pixels or more", "--img-size 32")),
        ("torchvision:alexnet", 32, ("torchvision:alexnet", "63 pixels or more", "--img-size 63")),
    ],
)
def test_a_size_that_cannot_be_says_why_and_what_can(name, size, words):
    with pytest.raises(ModelError) as caught:
        check_size(name, size)
    assert all(word in str(caught.value) for word in (*words, f"{size} pixels")), str(caught.value)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cnn3", 8),
        ("resnet20", 8),
        ("resnet18", 16),
        ("vit_tiny_patch16_224", 64),
        ("swin_tiny_patch4_window7_224", 64),
        ("inception_v3", 75),
        ("torchvision:alexnet", 63),
    ],
)
def test_sizes_that_work_pass(name, size):
    check_size(name, size)
    check_size(name, size, in_chans=13)


def test_what_is_said_of_sizes_is_true_of_real_networks():
    """The dry run has no values: the same networks are run in earnest at the size that it found and one below."""
    _, least = sizes_near("sapling_torchvision_squeezenet1_1", 8)
    model = create_model("torchvision:squeezenet1_1", num_classes=2, img_size=least).eval()
    assert model(torch.zeros(1, 3, least, least)).shape == (1, 2)
    with pytest.raises(RuntimeError, match="too small"):
        model(torch.zeros(1, 3, least - 1, least - 1))


def test_a_network_that_only_fails_without_values_passes(monkeypatch):
    import sapling.models.sizes as module

    real = module._build

    def build(architecture, arguments, device):
        if device == "meta":
            raise ModelError("cnn3 looks at values")
        return real(architecture, arguments, device)

    module._try.cache_clear()
    monkeypatch.setattr(module, "_build", build)
    assert reason_against("sapling_cnn3", 9) is None
    module._try.cache_clear()
