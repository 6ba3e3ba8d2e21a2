"""Weights trained elsewhere: whose network they are, under which names, and what is refused."""

from __future__ import annotations

import argparse
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from sapling.errors import ModelError
from sapling.models import create_model, load_model, origin_of
from sapling.models.foreign import CANDIDATES, _skeleton, count_tensors, find_network, fit_weights, head_names
from sapling.models.weights import read_weights
from tests.models.elsewhere import NETWORKS, ResNet, trained


@pytest.fixture(scope="module")
def made():
    """One network of elsewhere per name, made when first asked for."""
    networks = {}
    return lambda name: networks.setdefault(name, trained(NETWORKS[name]()))


def write(path, content):
    torch.save(content, path)
    return path


# ---- it answers as it did there ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_foreign_network_answers_as_it_did_there(made, tmp_path, name):
    network, images = made(name), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    path = write(tmp_path / "best.pth", network.state_dict())
    expected = network(images)
    assert expected.std(dim=0).mean() > 0.01
    loaded = load_model(f"{name}={path}")
    assert torch.allclose(loaded.model(images), expected, atol=1e-4)
    assert loaded.architecture == f"sapling_{name}"
    assert loaded.classes == tuple("0123456")
    assert not loaded.names_are_known
    assert not loaded.model.training
    origin = origin_of(loaded.model)
    assert (origin.weights, origin.head) == ("checkpoint", "loaded")


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "resnet56", "resnet34_cifar"])
def test_the_network_is_found_out(made, tmp_path, name):
    path = write(tmp_path / "best.pth", made(name).state_dict())
    loaded = load_model(path)
    assert loaded.architecture == f"sapling_{name}"
    assert f"those of {name}" in loaded.notes[0]


def test_no_two_candidates_could_be_mistaken_for_each_other():
    seen = {}
    for architecture, count in CANDIDATES.items():
        network = _skeleton(architecture, ())
        assert count_tensors(network.state_dict()) == count, architecture
        key = frozenset((name, tuple(tensor.shape)) for name, tensor in network.state_dict().items())
        assert seen.setdefault(key, architecture) == architecture
        assert all(timm.is_model(architecture) and tensor.is_meta for tensor in network.state_dict().values())
        assert head_names(network)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "densenet121"])
def test_torchvision_s_names_fit_timm_s_networks(name):
    weights = getattr(torchvision.models, name)(num_classes=5).state_dict()
    fit = find_network(weights)
    assert (fit.architecture, fit.num_classes) == (name, 5)


def test_torchvision_s_weights_answer_alike():
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = trained(torchvision.models.resnet18(num_classes=5), 64)
    fit = fit_weights(network.state_dict(), "resnet18")
    model = create_model("resnet18", num_classes=5, img_size=64)
    model.load_state_dict(fit.weights)
    assert torch.allclose(model.eval()(images), network(images), atol=1e-5)


def test_bands_and_image_size_are_read_off_the_weights():
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64, in_chans=4)
    fit = find_network(vit.state_dict())
    assert (fit.architecture, fit.arguments, fit.num_classes) == (
        "vit_tiny_patch16_224",
        {"img_size": 64, "in_chans": 4},
        3,
    )


# ---- how training scripts pack them --------------------------------------------------------------------------------

PACKINGS = {
    "plain": lambda w: w,
    "ordered": lambda w: OrderedDict(w),
    "state_dict": lambda w: {"epoch": 3, "state_dict": w, "best_acc": 71.5},
    "model": lambda w: {"model": w, "optimizer": {"state": {0: {"momentum": torch.zeros(2)}}, "param_groups": []}},
    "ema": lambda w: {"ema": w, "model": {k: v + 1 for k, v in w.items()}},
    "ema in state_dict": lambda w: {"state_dict": {"model": w}},
    "timm": lambda w: {"arch": "resnet20", "state_dict": w, "args": argparse.Namespace(model="resnet20", lr=0.1)},
    "DataParallel": lambda w: {"module." + k: v for k, v in w.items()},
    "compiled": lambda w: {"_orig_mod." + k: v for k, v in w.items()},
    "both": lambda w: {"state_dict": {"module._orig_mod." + k: v for k, v in w.items()}},
    "lightning": lambda w: {"state_dict": {"model." + k: v for k, v in w.items()}, "hyper_parameters": {"lr": 0.1}},
    "backbone": lambda w: {"backbone." + k: v for k, v in w.items()},
    "mmpretrain": lambda w: {("head." if k.startswith("fc") else "backbone.") + k: v for k, v in w.items()},
    "averaged": lambda w: {"n_averaged": torch.tensor(3), **{"module." + k: v for k, v in w.items()}},
    "old": lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_packings_of_training_scripts(made, tmp_path, packing):
    weights = made("resnet20").state_dict()
    path = write(tmp_path / "checkpoint.pth.tar", PACKINGS[packing](weights))
    loaded = load_model(f"resnet20={path}")
    assert torch.equal(loaded.model.fc.weight, weights["fc.weight"])
    assert torch.equal(loaded.model.layer3[2].bn2.running_var, weights["layer3.2.bn2.running_var"])
    assert bool(loaded.notes) == (packing == "ema")


def test_safetensors_alone_and_names_of_classes_beside(made, tmp_path):
    weights = {name: tensor.clone() for name, tensor in made("resnet20").state_dict().items()}
    save_file(weights, tmp_path / "x.safetensors")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    loaded = load_model(f"resnet20={tmp_path / 'x.safetensors'}")
    assert loaded.names_are_known
    assert loaded.classes == tuple("abcdefg")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(ModelError, match="2 class names for a network of 7"):
        load_model(tmp_path / "x.safetensors")


def test_preprocessing_is_as_given_or_as_timm_says(made, tmp_path):
    path = write(tmp_path / "w.pt", made("resnet20").state_dict())
    usual = load_model(f"resnet20={path}").preprocess
    assert (usual.img_size, usual.store_size) == (32, 37)
    given = load_model(f"resnet20={path}", img_size=40, mean=(0.1, 0.2, 0.3), std=(0.2,) * 3).preprocess
    assert (given.img_size, given.store_size, given.mean, given.std) == (40, 46, (0.1, 0.2, 0.3), (0.2, 0.2, 0.2))
    with pytest.raises(ModelError, match="mean and std are of 2"):
        load_model(f"resnet20={path}", mean=(0.1, 0.2))


def test_weights_alone_start_a_network_of_the_same_classes_only(made, tmp_path):
    path = write(tmp_path / "w.pt", made("resnet20").state_dict())
    model = create_model(f"resnet20={path}", num_classes=7, img_size=48)
    assert origin_of(model).head == "loaded"
    with pytest.raises(ModelError, match="7 classes, not 10"):
        create_model(f"resnet20={path}", num_classes=10, img_size=48)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_the_wrong_name_says_a_few_differences_and_the_right_name(made):
    weights = made("resnet20").state_dict()
    with pytest.raises(ModelError, match=r"do not fit resnet32: .*missing; and \d+ more") as caught:
        fit_weights(weights, "resnet32")
    assert "resnet20=.." in str(caught.value)
    with pytest.raises(ModelError, match=r"conv1.weight is \[64, 3, 3, 3\], not \[64, 3, 7, 7\]") as caught:
        fit_weights(made("resnet34_cifar").state_dict(), "resnet34")
    assert "resnet34_cifar=.." in str(caught.value)


def test_a_body_without_a_classifier_is_no_teacher(made, tmp_path):
    weights = {k: v for k, v in made("resnet20").state_dict().items() if not k.startswith("fc.")}
    with pytest.raises(ModelError, match=r"fc.weight is missing \(the classifier\)"):
        load_model(f"resnet20={write(tmp_path / 'w.pth', weights)}")


def test_an_unusual_network_without_a_name_lists_the_nearest(tmp_path):
    path = write(tmp_path / "w.pth", ResNet((2, 2, 2), (16, 16, 32, 64)).state_dict())
    with pytest.raises(ModelError, match=r"none of the \d+ usual networks; the nearest: \w+ \(\d+ diff") as caught:
        load_model(path)
    assert "NAME=path" in str(caught.value)


def test_a_missing_layer_is_never_filled(made):
    weights = dict(made("resnet20").state_dict())
    del weights["layer2.1.conv1.weight"]
    with pytest.raises(ModelError, match=r"layer2.1.conv1.weight is missing"):
        fit_weights(weights, "resnet20")


class Code:
    def __reduce__(self):
        return pytest.fail, ("code of a pickle was run",)


@pytest.mark.parametrize(
    "content", [Code(), {"state_dict": {"w": torch.zeros(1)}, "args": Code()}, torch.nn.Linear(2, 2)]
)
def test_code_in_a_pickle_is_refused_and_named(tmp_path, content):
    path = write(tmp_path / "evil.pth", content)
    with pytest.raises(ModelError, match=r"pickled file that holds objects of [\w.]+") as caught:
        load_model(f"resnet20={path}")
    assert "state_dict()" in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], torch.zeros(3), {"state_dict": {"a": 1}}])
def test_files_without_weights(tmp_path, content):
    with pytest.raises(ModelError, match="holds no weights"):
        read_weights(write(tmp_path / "w.pth", content))


def test_damaged_files(tmp_path):
    whole = write(tmp_path / "w.pth", {"a": torch.zeros(1000)}).read_bytes()
    for number, blob in enumerate((b"", b"\x00" * 64, whole[:300], b"hello, world, this is text")):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(blob)
        with pytest.raises(ModelError, match=r"damaged|pickled"):
            read_weights(path)


def test_a_name_and_a_file_must_be_there(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        load_model(f"resnet20={tmp_path / 'no.pth'}")
    with pytest.raises(ModelError, match="resnet20"):
        load_model(f"resnett20={tmp_path / 'no.pth'}")
    (tmp_path / "w.txt").write_text("x")
    with pytest.raises(ModelError, match="no file of weights"):
        load_model(f"resnet20={tmp_path / 'w.txt'}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("ch\u00eane\n".encode("cp1252") * 7, "not in UTF-8"),
        ("a\nb\n".encode("utf-16"), "not in UTF-8"),
        (b"a\nb\nc\nd\ne\nf\na\n", "'a' more than once"),
    ],
)
def test_names_of_classes_that_cannot_be_read_are_refused(made, tmp_path, content, says):
    save_file({k: v.clone() for k, v in made("resnet20").state_dict().items()}, tmp_path / "x.safetensors")
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(ModelError, match=says):
        load_model(f"resnet20={tmp_path / 'x.safetensors'}")


def test_a_byte_order_mark_is_no_part_of_a_name(made, tmp_path):
    save_file({k: v.clone() for k, v in made("resnet20").state_dict().items()}, tmp_path / "x.safetensors")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\ng\n", encoding="utf-8-sig")
    assert load_model(f"resnet20={tmp_path / 'x.safetensors'}").classes == tuple("abcdefg")


def test_a_network_that_looks_the_same_is_named(tmp_path):
    """Of stem strides nothing stands in the weights."""
    path = write(tmp_path / "s2.pth", create_model("wrn_16_2_s2", num_classes=3, img_size=32, seed=0).state_dict())
    assert any(f"wrn_16_2_s2={path}" in note for note in load_model(path).notes)
    assert not any("_s2" in note for note in load_model(f"wrn_16_2={path}").notes)


def test_a_checkpoint_that_holds_itself_holds_no_weights(tmp_path):
    content = {"epoch": 3}
    content["state_dict"] = content
    with pytest.raises(ModelError, match="holds no weights"):
        load_model(write(tmp_path / "loop.pth", content))
