from __future__ import annotations

import json
import pickle
import shutil
import zipfile

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from sapling.errors import ModelError
from sapling.models import Preprocess, create_model, hub, load_model, origin_of, save_model
from sapling.models import save as save_module
from tests.models.shaken import CLASSES, loaded, pictures, preprocess


def write(folder, what, **changes):
    arguments = {"architecture": what.architecture, "classes": what.classes, "preprocess": what.preprocess}
    save_model(folder, what.model, **{**arguments, **changes})
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "student", loaded())


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def forget_hash(config):
    del config["sapling"]["weights_sha256"]


# ---- what goes in comes out --------------------------------------------------------------------------------------

PAIRS = [("cnn3", 64, 3), ("cnn4", 32, 13), ("resnet18", 64, 3), ("vit_tiny_patch16_224", 64, 3), ("cnn3", 64, 1)]


@pytest.mark.parametrize(("name", "side", "channels"), PAIRS)
def test_round_trip_and_timm_agree(tmp_path, name, side, channels):
    what = loaded(name, img_size=side, channels=channels)
    images = pictures(channels=channels, side=side)
    expected = what.model(images)
    assert expected.std(dim=0).mean() > 0.1, "weights that cannot tell images apart would prove nothing"
    folder = write(tmp_path / "student", what)
    back = load_model(folder)
    assert (back.architecture, back.classes, back.preprocess) == (what.architecture, CLASSES, what.preprocess)
    assert not back.model.training
    assert torch.equal(back.model(images), expected)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    needed = {"img_size": side} if name.startswith("vit") else {}
    assert config["model_args"] == (needed if channels == 3 else {"in_chans": channels})
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(by_timm(images), expected)
    assert by_timm.pretrained_cfg["label_names"] == list(CLASSES)
    assert tuple(by_timm.pretrained_cfg["input_size"]) == (channels, side, side)
    assert tuple(by_timm.pretrained_cfg["mean"]) == what.preprocess.mean


def test_the_layout(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["classes.txt", "config.json", "model.safetensors"]
    assert (folder / "classes.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "sapling_cnn3"
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 7


def test_channels_last_and_trained_networks_can_be_saved(tmp_path):
    what = loaded()
    images = torch.rand(2, 3, 64, 64)
    expected = what.model(images)
    what.model.to(memory_format=torch.channels_last).train()
    folder = write(tmp_path / "s", what)
    assert what.model.training
    assert torch.allclose(load_model(folder).model(images), expected, atol=1e-5)


@pytest.mark.parametrize(("img_size", "store_size"), [(64, 74), (64, 64), (32, 37), (224, 258), (49, 57), (17, 25)])
def test_timm_resizes_to_the_stored_size(img_size, store_size):
    share = save_module._crop_share(preprocess(img_size, store_size))
    assert int(img_size / share) == store_size


def test_every_way_to_name_a_saved_network(folder, tmp_path):
    run = folder.parent
    (run / "config.yaml").write_text("name: x\n")
    for way in (folder, run, folder / "model.safetensors", f"local-dir:{folder}", str(folder)):
        assert load_model(way).classes == CLASSES
    origin = origin_of(load_model(folder).model)
    assert (origin.weights, origin.head, origin.source) == ("checkpoint", "loaded", str(folder))


def test_saving_again_replaces_and_leaves_no_temporary_files(folder):
    write(folder, loaded(), extra={"teacher": "resnet50"})
    assert len(list(folder.iterdir())) == 3
    assert json.loads((folder / "config.json").read_text())["sapling"]["extra"] == {"teacher": "resnet50"}


def test_a_save_that_was_killed_between_two_files_is_noticed(folder, monkeypatch):
    real, done = save_module._write, []

    def dies(path, blob):
        if done:
            raise KeyboardInterrupt
        done.append(path)
        real(path, blob)

    monkeypatch.setattr(save_module, "_write", dies)
    other = loaded()
    with torch.no_grad():
        other.model.fc.bias.add_(1.0)
    with pytest.raises(KeyboardInterrupt):
        write(folder, other)
    with pytest.raises(ModelError, match=r"not the file that config.json was written for"):
        load_model(folder)


def test_weights_from_the_hub_are_safetensors(folder, monkeypatch):
    asked = []

    def fetch(repo, name):
        asked.append(name)
        return str(folder / name)

    monkeypatch.setattr("sapling.models.load.fetch", fetch)
    assert load_model("hf-hub:someone/trees").classes == CLASSES
    assert asked == ["config.json", "model.safetensors"]
    assert hub.fetch is not fetch


# ---- what cannot be saved ------------------------------------------------------------------------------------------


def test_class_names_must_fit(tmp_path):
    what = loaded()
    with pytest.raises(ModelError, match="2 class names for a network of 7"):
        write(tmp_path, what, classes=("a", "b"))
    with pytest.raises(ModelError, match="same name"):
        write(tmp_path, what, classes=("a",) * 7)
    for name in ("two\nlines", "", "tail\u2028"):
        with pytest.raises(ModelError, match="class name"):
            write(tmp_path, what, classes=(*CLASSES[:6], name))
    with pytest.raises(ModelError, match="timm knows no network"):
        write(tmp_path, what, architecture="sapling_cnn5")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_blew_up_is_not_saved(tmp_path):
    what = loaded()
    with torch.no_grad():
        what.model.fc.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        write(tmp_path, what)


@pytest.mark.parametrize(
    "arguments",
    [
        (64, 32, (0.5,), (0.5,)),
        (0, 0, (0.5,), (0.5,)),
        (8, 8, (0.5,), (0.0,)),
        (8, 8, (0.5, 0.5), (0.5,)),
        (8, 8, (), ()),
    ],
)
def test_preprocessing_that_cannot_be(arguments):
    with pytest.raises(ModelError):
        Preprocess(*arguments)


# ---- what cannot be loaded -----------------------------------------------------------------------------------------


def test_nothing_there(tmp_path):
    with pytest.raises(ModelError, match="no file or folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"model.safetensors is missing"):
        load_model(tmp_path)
    (tmp_path / "config.yaml").write_text("x: 1\n")
    with pytest.raises(ModelError, match="no student yet"):
        load_model(tmp_path)
    for text, shown in (
        ('{"kind": "GateError", "what": "the teacher is no good\\nat all"}', "stopped, because the teacher is no good"),
        ('{"kind": "interrupted", "what": "interrupted"}', "the same command goes on"),
        ('["what"]', "the same command goes on"),
        ('{"what": ""}', "the same command goes on"),
        ('{"what": "no kind"}', "the same command goes on"),
    ):
        (tmp_path / "stopped.json").write_text(text)
        with pytest.raises(ModelError) as caught:
            load_model(tmp_path)
        assert shown in str(caught.value)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match="is no model"):
        load_model(tmp_path / "notes.txt")


def test_missing_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config.json is missing"):
        load_model(folder)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize("name", ["model.pth", "pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl", "M.PTH"])
def test_pickled_files_are_refused_unopened(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    for way in (folder, folder / name):
        with pytest.raises(ModelError, match="pickled file"):
            load_model(way)


def test_a_pickle_under_the_name_of_safetensors_is_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="pickled file"):
        load_model(folder)
    weights.unlink()
    with zipfile.ZipFile(weights, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="pickled file"):
        load_model(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights(folder, keep):
    edit(folder, forget_hash)
    path = folder / "model.safetensors"
    blob = path.read_bytes()
    path.write_bytes(blob[: int(keep * len(blob)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError, match="damaged or cut off"):
        load_model(folder)


def test_one_changed_byte_is_noticed(folder):
    path = folder / "model.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-100] ^= 1
    path.write_bytes(bytes(blob))
    with pytest.raises(ModelError, match="not the file"):
        load_model(folder)


def test_weights_of_another_number_of_classes(folder):
    def change(config):
        forget_hash(config)
        config["num_classes"] = config["pretrained_cfg"]["num_classes"] = 12
        config["pretrained_cfg"]["label_names"] = [str(i) for i in range(12)]

    edit(folder, change)
    (folder / "classes.txt").unlink()
    with pytest.raises(ModelError, match=r"weights are of 7 classes, but config.json says 12"):
        load_model(folder)


def test_two_numbers_of_classes(folder):
    edit(folder, lambda config: config.update(num_classes=8))
    with pytest.raises(ModelError, match="numbers of classes"):
        load_model(folder)


def test_class_names_that_do_not_fit(folder):
    (folder / "classes.txt").write_text("a\nb\n")
    with pytest.raises(ModelError, match="name different classes"):
        load_model(folder)
    edit(folder, lambda config: config["pretrained_cfg"].pop("label_names"))
    with pytest.raises(ModelError, match="2 class names for a network of 7"):
        load_model(folder)
    (folder / "classes.txt").unlink()
    assert load_model(folder).classes == tuple("0123456")


def test_missing_strange_and_misshapen_weights(folder):
    edit(folder, forget_hash)
    path = folder / "model.safetensors"
    good = load_file(path)
    bad = dict(good)
    del bad["blocks.1.norm.running_var"]
    save_file(bad, path)
    with pytest.raises(ModelError, match=r"blocks.1.norm.running_var is missing"):
        load_model(folder)
    save_file({**good, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"extra.weight is unknown"):
        load_model(folder)
    save_file({**good, "blocks.0.conv.weight": torch.zeros(32, 4, 3, 3)}, path)
    with pytest.raises(ModelError, match=r"blocks.0.conv.weight is \[32, 4, 3, 3\], not \[32, 3, 3, 3\]"):
        load_model(folder)


def test_another_architecture(folder):
    edit(folder, lambda config: config.update(architecture="sapling_cnn4"))
    with pytest.raises(ModelError, match=r"do not fit the network|classes"):
        load_model(folder)
    edit(folder, lambda config: config.update(architecture="sapling_cnn9"))
    with pytest.raises(ModelError, match="cnn"):
        load_model(folder)
    edit(folder, lambda config: config.update(architecture="hf-hub:evil/net"))
    with pytest.raises(ModelError, match="timm knows no network"):
        load_model(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"architecture": 3}', '{"architecture": "resnet18"}', "[" * 99_999]
)
def test_damaged_config(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError):
        load_model(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "x.pth"},
        {"pretrained": True},
        {"pretrained_cfg_overlay": {"file": "x.pth"}},
        {"norm_layer": {"a": 1}},
        {"features_only": True},
        {"no_such_argument": 1},
        [1],
    ],
)
def test_a_config_cannot_make_timm_do_more_than_build(folder, arguments):
    edit(folder, lambda config: config.update(model_args=arguments))
    with pytest.raises(ModelError):
        load_model(folder)


def test_a_run_folder_with_a_copied_student(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run" / "student")
    assert load_model(tmp_path / "run").classes == CLASSES


def test_loading_leaves_the_global_generator_alone(folder):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    load_model(folder)
    assert torch.equal(torch.rand(2), expected)


def test_a_vit_saved_without_its_record_still_needs_its_size(tmp_path):
    """model_args come from the record that create_model left; a network made elsewhere gives them by hand."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64)
    arguments = {"architecture": "vit_tiny_patch16_224", "classes": CLASSES, "preprocess": preprocess()}
    save_model(tmp_path, model, **arguments, model_args={"img_size": 64})
    assert load_model(tmp_path).model.patch_embed.img_size == (64, 64)
    assert create_model(str(tmp_path), num_classes=7, img_size=64).patch_embed.img_size == (64, 64)
    with pytest.raises(ModelError, match="bound to images of 64"):
        create_model(str(tmp_path), num_classes=7, img_size=96)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_classes", [2]), ("num_classes", {}), ("input_size", [3, float("inf"), float("inf")]), ("mean", 7)],
)
def test_a_config_of_odd_values_is_refused(folder, key, value):
    def change(config):
        (config if key == "num_classes" else config["pretrained_cfg"])[key] = value

    edit(folder, change)
    with pytest.raises(ModelError):
        load_model(folder)


def test_a_config_whose_stored_size_is_endless_is_refused(folder):
    edit(folder, lambda config: config["sapling"].update(store_size=float("inf")))
    with pytest.raises(ModelError, match="does not say how images are prepared"):
        load_model(folder)


def test_arguments_that_timm_trips_over_are_named(tmp_path):
    folder = write(tmp_path / "student", loaded("vit_tiny_patch16_224", img_size=64))
    edit(folder, lambda config: config["model_args"].update(patch_size=0))
    with pytest.raises(ModelError, match=r"cannot be built with .*patch_size=0"):
        load_model(folder)
