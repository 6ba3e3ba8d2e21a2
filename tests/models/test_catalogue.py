from __future__ import annotations

import pytest

from sapling.errors import ModelError
from sapling.models.catalogue import describe_model


def test_costs_and_weights_of_known_networks():
    resnet = describe_model("resnet18")
    assert (resnet.parameters, resnet.img_size) == (11_689_512, 224)
    assert resnet.macs == pytest.approx(1.814e9, rel=1e-3)
    assert resnet.weights[0] == "a1_in1k"
    assert "tv_in1k" in resnet.weights
    assert resnet.licence == "apache-2.0"
    squeeze = describe_model("torchvision:squeezenet1_1")
    assert (squeeze.name, squeeze.parameters, squeeze.weights) == (
        "torchvision:squeezenet1_1",
        1_235_496,
        ("default",),
    )


def test_a_network_without_published_weights():
    card = describe_model("cnn3")
    assert (card.name, card.weights, card.licence, card.img_size) == ("cnn3", (), None, 64)
    assert card.as_dict()["parameters"] == card.parameters


def test_an_unknown_network():
    with pytest.raises(ModelError, match="resnet18"):
        describe_model("resnet81")
