from __future__ import annotations

import json

import pytest

from sapling.models import create_model, load_model, origin_of, save_model
from sapling.models.build import Origin, set_origin
from sapling.models.licence import licence_of
from tests.models.shaken import loaded

CARDS = [
    ("---\nlicense: mit\n---\n", "mit"),
    ("---\nlicense: other\nlicense_name: trees-1.0\n---\n", "trees-1.0"),
    ("---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit, apache-2.0"),
    ("---\ntags: [a]\n---\n", None),
    ("---\nlicense: 3\n---\n", None),
    ("---\nlicense: mit\n", None),
    ("---\n!!python/object:os.system {}\n---\n", None),
    ("# license: mit\n", None),
    ("\ufeff---\nlicense: mit\n---\nmore\n---\n", "mit"),
    ("---\nlicense: |\n  two\n  lines\n---\n", "two lines"),
]


@pytest.mark.parametrize(("text", "expected"), CARDS)
def test_cards(tmp_path, text, expected):
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert licence_of("x", tmp_path, {}) == expected


def test_config_comes_before_the_card(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert licence_of("x", tmp_path, {"license": "apache-2.0"}) == "apache-2.0"
    assert licence_of("x", tmp_path, {"pretrained_cfg": {"license": "cc0-1.0"}}) == "cc0-1.0"
    assert licence_of("x", tmp_path, {"pretrained_cfg": {"license": None}}) == "mit"
    assert len(licence_of("x", tmp_path, {"license": "x" * 5000})) == 200


def test_the_licence_travels_with_the_weights(tmp_path):
    what = loaded()
    origin = Origin(
        "sapling_cnn3", "pretrained", "fresh", "resnet18.a1", {}, licence="cc-by-4.0", started_from="resnet18.a1"
    )
    set_origin(what.model, origin)
    save_model(tmp_path, what.model, architecture=what.architecture, classes=what.classes, preprocess=what.preprocess)
    back = origin_of(load_model(tmp_path).model)
    assert (back.licence, back.started_from) == ("cc-by-4.0", "resnet18.a1")
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["license"] == "cc-by-4.0"


def test_random_weights_have_no_licence_of_others():
    assert origin_of(create_model("cnn3", num_classes=3, img_size=32)).licence is None
