"""SimKD against loops; what it ships answers as in training, and is saved, loaded and exported as one network."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from sapling import methods
from sapling.deploy.export import check_parity, export_onnx
from sapling.errors import MethodError, ModelError
from sapling.models import count_macs, count_parameters, create_model, load_model, origin_of, save_model
from sapling.models.build import list_models, recorded_as
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.reused import ReusedClassifier
from sapling.types import Batch, Outputs, PairInfo, Step
from tests.losses.test_hierarchical import draw
from tests.methods.hidden import K
from tests.methods.toys import batch

BOTH = Step(progress=0.5, terms=("ce", "feature"))
FEATURE = Step(progress=0.5, terms=("feature",))
PLAIN = (0.5, 0.5, 0.5)


def card(wide=6):
    return {"classifier.weight": draw(8, K, wide), "classifier.bias": draw(9, K)}


def make(student=(10, 4, 4), teacher=(6, 2, 3), **config):
    torch.manual_seed(0)
    info = PairInfo(K, 9, {"last_map": student}, {"last_map": teacher}, teacher_card=card(teacher[0]))
    return methods.build("simkd", info, **config).double()


def of(features):
    return Outputs(draw(7, len(features), K), {"last_map": features})


def averaged(maps, size):
    """As adaptive pooling says: cell i of n reads the pixels from floor(i H / n) to ceil((i + 1) H / n)."""
    (height, width), n = maps.shape[2:], size
    out = np.zeros((*maps.shape[:2], *n))
    for i in range(n[0]):
        for j in range(n[1]):
            rows = slice(i * height // n[0], -(-(i + 1) * height // n[0]))
            columns = slice(j * width // n[1], -(-(j + 1) * width // n[1]))
            out[:, :, i, j] = maps[:, :, rows, columns].mean((2, 3))
    return out


def convolved(maps, weight):
    """Stride 1, as many zeros around as keep the size."""
    pad = weight.shape[2] // 2
    wide = np.pad(maps, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((len(maps), len(weight), *maps.shape[2:]))
    for i in range(maps.shape[2]):
        for j in range(maps.shape[3]):
            window = wide[:, :, i : i + weight.shape[2], j : j + weight.shape[3]]
            out[:, :, i, j] = np.einsum("bchw,ochw->bo", window, weight)
    return out


def normed(maps):
    return (maps - maps.mean((0, 2, 3), keepdims=True)) / np.sqrt(maps.var((0, 2, 3), keepdims=True) + 1e-5)


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("teacher", [(6, 2, 3), (6, 5, 5)])
def test_is_the_naive_one(teacher, rectified):
    """Each side is averaged to the smaller one; the last ReLU goes once the teacher was below 0."""
    method, own, theirs = make(teacher=teacher), draw(1, 4, 10, 4, 4), draw(2, 4, *teacher)
    theirs = theirs.abs() if rectified else theirs
    got = method(of(own), of(theirs), batch(batch_size=4), BOTH)
    size = (min(4, teacher[1]), min(4, teacher[2]))
    maps = averaged(own.numpy(), size)
    for number, layer in enumerate((0, 3, 6)):
        maps = normed(convolved(maps, method.projector[layer].weight.detach().numpy()))
        maps = np.maximum(maps, 0) if number < 2 or rectified else maps
    error = ((maps - averaged(theirs.numpy(), size)) ** 2).mean()
    head = card()
    logits = maps.mean((2, 3)) @ head["classifier.weight"].numpy().T + head["classifier.bias"].numpy()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = batch(batch_size=4).labels.tolist()
    assert float(got["feature"].detach()) == pytest.approx(error, rel=1e-6)
    assert float(got["ce"].detach()) == pytest.approx(
        -np.mean([np.log(chances[i, y]) for i, y in enumerate(labels)]), rel=1e-6
    )


def test_no_label_is_used_unless_it_is_asked_for():
    assert make().weights == {"ce": 0.0, "feature": 1.0}
    assert make(alpha=0.25).weights == {"ce": 0.25, "feature": 0.75}


def test_the_projector_is_as_narrow_as_the_factor_says():
    assert [make(factor=f).projector[3].weight.shape[0] for f in (1, 2, 3, 64)] == [6, 3, 2, 1]


def test_one_negative_value_is_remembered_in_training_only():
    method, own, theirs = make(), of(draw(1, 4, 10, 4, 4)), draw(2, 4, 6, 2, 3)
    method.eval()(own, of(theirs), batch(), FEATURE)
    assert bool(method.is_rectified)
    method.train()(own, of(theirs), batch(), FEATURE)
    method(own, of(theirs.abs()), batch(), FEATURE)
    assert not bool(method.is_rectified)
    assert "is_rectified" in method.state_dict()


def test_the_teachers_classifier_is_a_copy_that_nothing_trains():
    method = make(weights={"ce": 1})
    before = method.head_weight.clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, weight_decay=0.1)
    terms = method(of(draw(1, 4, 10, 4, 4)), of(draw(2, 4, 6, 2, 3)), batch(batch_size=4), BOTH)
    sum(terms.values()).backward()
    optimizer.step()
    assert torch.equal(method.head_weight, before)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_tokens_of_no_square_are_refused(side):
    with pytest.raises(MethodError, match=rf"'simkd' cannot place {side}'s last_map of shape \[17, 6\]"):
        make(**{side: (17, 6)})


def test_teachers_without_a_fitting_classifier_are_refused():
    shapes = {"last_map": (10, 4, 4)}, {"last_map": (6, 2, 3)}
    with pytest.raises(MethodError, match=r"ships the teacher's classifier, and it is no linear layer[\s\S]*reviewkd"):
        methods.build("simkd", PairInfo(K, 9, *shapes))
    with pytest.raises(MethodError, match=r"shape \[5, 7\], its last map 6 channels, for 5 classes"):
        methods.build("simkd", PairInfo(K, 9, *shapes, teacher_card=card(7)))
    fewer = {name: values[:4] for name, values in card(6).items()}
    with pytest.raises(MethodError, match=r"shape \[4, 6\], its last map 6 channels, for 5 classes"):
        methods.build("simkd", PairInfo(K, 9, *shapes, teacher_card=fewer))


def test_a_network_without_a_last_map_is_refused():
    vit = create_model("vit_tiny_patch16_224", num_classes=K, img_size=32, seed=0)
    with pytest.raises(ModelError, match=r"has no 'last_map': its classifier does not read the mean of a map"):
        TappedModel(vit, Preprocess(32, 32, PLAIN, PLAIN), methods.taps("simkd").teacher)


def test_it_is_no_part_of_a_combination():
    with pytest.raises(MethodError, match=r"'simkd' trains the labels through parts of its own[\s\S]*--method simkd"):
        methods.load_class("kd+simkd")


def test_a_run_is_told_that_more_is_shipped():
    cls = methods.load_class("simkd")
    (note,) = cls.notes(cls.Config(), mixes=False, epochs=9)
    assert "more parameters and operations than the control" in note
    assert cls.notes(cls.Config(alpha=1), mixes=False, epochs=9) == []


# ---- what is shipped ----


def taught(student_name, teacher_name, size, channels=3):
    """A pair that met a few batches: student, method, and the teacher."""
    how = Preprocess(size, size, (0.5,) * channels, (0.5,) * channels)
    networks = [
        TappedModel(create_model(name, num_classes=K, in_chans=channels, img_size=size, seed=1), how, ("last_map",))
        for name in (student_name, teacher_name)
    ]
    student, teacher = networks[0], networks[1].eval()
    torch.manual_seed(0)
    info = PairInfo(
        K,
        9,
        student.shapes,
        teacher.shapes,
        teacher_card={k: 20 * v for k, v in teacher.classifier_card.items()},  # of fresh networks all answers are alike
        student_places=student.places,
    )
    method = methods.build("simkd", info)
    for module in (*student.modules(), *method.modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the average over all that it sees: fresh ones tell no image from another
    optimizer = torch.optim.SGD([*student.parameters(), *method.parameters()], lr=0.01)
    for step in range(3):
        images = torch.rand(8, channels, size, size) * (step + 1) / 3
        data = Batch(images, torch.arange(8) % K, torch.arange(8), torch.zeros(8, dtype=torch.int64))
        with torch.no_grad():
            target = teacher(images)
        optimizer.zero_grad()
        method(student(images), target, data, FEATURE)["feature"].backward()
        optimizer.step()
    return student.eval(), method.eval(), teacher


@pytest.fixture(scope="module")
def trained():
    return taught("cnn3", "resnet8x4", 16)


def in_training(student, method, images, teacher):
    """The logits that the label term would read."""
    seen = {}
    method.label_loss = lambda logits, target: seen.setdefault("logits", logits).sum()
    count = len(images)
    data = Batch(images, torch.zeros(count, dtype=torch.int64), torch.arange(count), torch.zeros(count))
    method(student(images), teacher(images), data, BOTH)
    method.label_loss = None
    return seen["logits"].detach()


PAIRS = [
    ("cnn3", "resnet8x4", 16, 3),
    ("resnet8x4", "cnn3", 20, 13),
    ("mobilenetv3_small_050", "efficientnet_b0", 64, 3),
    ("torchvision:shufflenet_v2_x0_5", "resnet8x4", 64, 4),
]


@pytest.mark.parametrize(("student_name", "teacher_name", "size", "channels"), PAIRS)
def test_every_way_to_it_answers_as_in_training(student_name, teacher_name, size, channels, tmp_path):
    student, method, teacher = taught(student_name, teacher_name, size, channels)
    images = torch.rand(3, channels, size, size) * torch.tensor([0.3, 0.6, 1.0])[:, None, None, None]
    architecture = origin_of(student.model).architecture
    with torch.no_grad():
        expected = in_training(student, method, images, teacher)
        network = method.deployable(student.model)
        assert bool(method.is_rectified) == (teacher_name != "efficientnet_b0")
        assert network.shapes_behind.rectified == bool(method.is_rectified)
        name = recorded_as(network, architecture)
        save_model(tmp_path, network, architecture=name, classes="abcde", preprocess=student.preprocess)
        loaded = load_model(tmp_path)
        ways = {
            "itself": network(student.normalise(images)),
            "folder": TappedModel(loaded.model, loaded.preprocess)(images).logits,
            "timm": timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(student.normalise(images)),
        }
    for way, logits in ways.items():
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5, msg=way)
    assert expected.std(0).min() > 1e-4, "logits that do not vary would prove nothing"
    export_onnx(loaded, tmp_path / "model.onnx")
    check_parity(loaded, tmp_path / "model.onnx", images)  # raises where it answers otherwise
    # once more, from what was loaded
    again = tmp_path / "again"
    save_model(again, loaded.model, architecture=loaded.architecture, classes="abcde", preprocess=loaded.preprocess)
    with torch.no_grad():
        assert torch.equal(TappedModel(load_model(again).model, student.preprocess)(images).logits, ways["folder"])


def test_it_costs_what_is_shipped(trained):
    """The body without its classifier, the projector, the teacher's classifier."""
    student, method, _ = trained
    network = method.deployable(student.model)
    head = count_parameters(student.model.fc)
    parts = 128 * 128 + 128 * 128 * 9 + 128 * 256 + 2 * (128 + 128 + 256)
    assert count_parameters(network) == count_parameters(student.model) - head + parts + K * 257
    macs = count_macs(student.model, (3, 16, 16)) - 128 * K + 16 * (128 * 128 + 128 * 128 * 9 + 128 * 256) + 256 * K
    assert count_macs(network, (3, 16, 16)) == macs
    assert not any(key.startswith("backbone.fc") for key in network.state_dict())


def test_measuring_changes_no_training(trained):
    student, method, _ = trained
    kept = {k: v.clone() for k, v in (*student.state_dict().items(), *method.state_dict().items())}
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    first = method.deployable(student.model)
    assert torch.equal(torch.rand(3), drawn)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    found = dict((*student.state_dict().items(), *method.state_dict().items()))
    assert all(torch.equal(v, kept[k]) for k, v in found.items())
    assert student.model.get_classifier() is student.model.fc


def test_alpha_one_ships_the_student_as_it_is():
    model = create_model("cnn3", num_classes=K, img_size=16, seed=0)
    assert make((128, 4, 4), alpha=1).deployable(model) is model
    assert recorded_as(model, "sapling_cnn3") == "sapling_cnn3"


def test_without_the_place_of_the_map_nothing_is_shipped():
    with pytest.raises(MethodError, match=r"was not told where the student's last_map is[\s\S]*student_places"):
        make().deployable(create_model("cnn3", num_classes=K, img_size=16, seed=0))


def test_tokens_are_laid_on_their_grid():
    """A body whose last map is tokens, as a ViT's that averages them."""

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = torch.nn.Conv2d(3, 10, 4, 4), torch.nn.Linear(10, K)
            self.norm = torch.nn.LayerNorm(10)

        def get_classifier(self):
            return self.fc

        def forward(self, x):
            return self.fc(self.norm(self.body(x).flatten(2).transpose(1, 2)).mean(1))

    student = TappedModel(Tokens(), Preprocess(16, 16, PLAIN, PLAIN), ("last_map",))
    assert student.shapes["last_map"] == (16, 10)
    info = PairInfo(
        K,
        9,
        student.shapes,
        {"last_map": (6, 2, 2)},
        teacher_card={k: v.float() for k, v in card().items()},
        student_places=student.places,
    )
    method = methods.build("simkd", info).eval()
    images, teacher = torch.rand(3, 3, 16, 16), lambda images: of(draw(2, 3, 6, 2, 2).abs().float())
    with torch.no_grad():
        expected = in_training(student.eval(), method, images, teacher)
        found = method.deployable(student.model)(student.normalise(images))
    torch.testing.assert_close(found, expected)


def test_nobody_makes_one_by_name():
    assert not [name for name in list_models() if "reused" in name]
    with pytest.raises(ModelError, match="it is what method simkd ships"):
        create_model("reused_classifier", num_classes=K, img_size=16)


@pytest.mark.parametrize("student", ["hf-hub:a/b", "local-dir:/x", "sapling_reused_classifier", 3])
def test_a_folder_cannot_name_a_body_from_elsewhere(student, trained):
    own, method, _ = trained
    network = method.deployable(own.model)
    recorded_as(network, "sapling_cnn3")
    arguments = {**origin_of(network).model_args, "student": student}
    with pytest.raises(ValueError, match="only read from a folder"):
        timm.create_model("sapling_reused_classifier", num_classes=K, **arguments)


def test_it_can_be_tuned_to_other_classes(trained):
    student, method, _ = trained
    network = method.deployable(student.model)
    assert isinstance(network, ReusedClassifier)
    network.reset_classifier(3)
    tapped = TappedModel(network, student.preprocess, ("stage4", "embedding", "last_map"))
    assert tapped(torch.rand(2, 3, 16, 16)).logits.shape == (2, 3)
    assert tapped.shapes == {"stage4": (128, 4, 4), "embedding": (256,), "last_map": (256, 4, 4)}
    network.reset_classifier(0)
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 256)
    assert network.forward_head(torch.rand(2, 256, 4, 4), pre_logits=True).shape == (2, 256)
