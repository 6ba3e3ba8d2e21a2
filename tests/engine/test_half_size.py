"""First epochs on images of half the side: who sees what, and that nothing else changes."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sapling.engine.plan import half_size_epochs
from sapling.engine.trainer import fit
from sapling.errors import ModelError
from sapling.models.create import create_model
from sapling.models.tapped import TappedModel
from tests.engine.conftest import CLASSES, PREPROCESS, SIZE


def sides(network, log):
    """Side of the images that the network inside is given, once for each forward."""
    network.model.register_forward_pre_hook(lambda _, inputs: log.append(inputs[0].shape[-1]))


def test_whole_images_come_as_they_are(data, make_member, settings):
    """Neither shrunk nor blurred once the small ones are over."""
    member, seen = make_member("m"), []
    member.student.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    fit([member], data, settings(4, half_size_epochs=2))
    for given, (epoch, index) in zip(seen, data.seen, strict=True):
        if epoch >= 2:
            assert torch.allclose(given, (data.images[index] - 0.5) / 0.25)


def test_the_share_is_rounded_and_enough_steps_are_left_for_whole_images():
    assert [half_size_epochs(share, 10, 50) for share in (0.0, 0.04, 0.5, 0.66, 0.9)] == [0, 0, 5, 7, 9]
    assert [half_size_epochs(0.9, epochs, 1000) for epochs in (1, 2, 3, 4)] == [0, 1, 2, 3], "an epoch at least"
    assert [half_size_epochs(0.9, 20, steps) for steps in (49, 25, 10, 3, 2)] == [18, 18, 15, 3, 0], "50 steps at least"


def test_every_student_sees_small_images_first_and_the_teacher_never(data, make_member, teacher, settings):
    members = [make_member("control"), make_member("kd", "kd")]
    seen, asked = {"control": [], "kd": []}, []
    for member in members:
        sides(member.student, seen[member.name])
    whole = teacher.outputs
    teacher.outputs = lambda batch: (asked.append(batch.images.shape[-1]), whole(batch))[1]
    fit(members, data, settings(4, half_size_epochs=3), teacher=teacher)
    assert seen["control"] == seen["kd"] == [SIZE // 2] * 12 + [SIZE] * 4
    assert asked == [SIZE] * 16


def test_it_is_training_on_shrunken_images(data, make_member, settings):
    """Against a student that is trained on images which were shrunk before."""
    member, reference, usual = make_member("m"), make_member("m"), make_member("m")
    fit([member], data, settings(2, half_size_epochs=2))
    fit([usual], data, settings(2))
    reference.student = TappedModel(
        create_model("cnn3", num_classes=CLASSES, img_size=SIZE, seed=0), replace(PREPROCESS, img_size=SIZE // 2)
    )
    reference.__post_init__()
    data.images = F.interpolate(data.images, (SIZE // 2, SIZE // 2), mode="bicubic", antialias=True).clamp(0, 1)
    fit([reference], data, settings(2))
    ours, theirs = member.student.state_dict(), reference.student.state_dict()
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in theirs)
    assert not all(torch.allclose(ours[key], usual.student.state_dict()[key], atol=1e-3) for key in ours)


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_pass_that_goes_on_sees_the_sizes_it_would_have_seen(data, make_member, settings, tmp_path, stopped_after):
    unbroken, seen = make_member("m"), []
    fit([unbroken], data, settings(4, half_size_epochs=2))

    def stop(rows):
        if rows[0]["epoch"] == stopped_after:
            raise KeyboardInterrupt

    place = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit([make_member("m")], data, settings(4, half_size_epochs=2), checkpoint=place, report=stop)
    resumed = make_member("m")
    sides(resumed.student, seen)
    fit([resumed], data, settings(4, half_size_epochs=2), checkpoint=place)
    assert seen == [SIZE // 2] * 4 * max(2 - stopped_after, 0) + [SIZE] * 4 * min(4 - stopped_after, 2)
    ours, theirs = unbroken.student.state_dict(), resumed.student.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("stopped_after", [None, 0, 1, 2])
def test_an_average_begins_anew_with_whole_images(data, make_member, settings, tmp_path, stopped_after):
    """Against the recursion by hand: nothing of the small images is left in it, wherever a pass goes on."""

    def member():
        made = make_member("m")
        made.ema_decay = 0.9
        return made

    def watch(one):  # weights after each step of whole images, taken before the average is updated
        step = one.optimizer.step
        one.optimizer.step = lambda: (step(), seen.append(one.student.state_dict()["model.fc.weight"].clone()))

    seen, place, how = [], tmp_path / "c.safetensors", settings(4, half_size_epochs=2)
    if stopped_after is not None:

        def stop(rows):
            if rows[0]["epoch"] == stopped_after + 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit([member()], data, how, checkpoint=place, report=stop)
    whole = member()
    fit([whole], data, how)
    again = member()
    watch(again)
    fit([again], data, how, checkpoint=place if stopped_after is not None else None)
    ours, theirs = whole.student.state_dict(), again.student.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    if stopped_after is None:
        expected = seen[7]  # after the last step of small images
        for age, weights in enumerate(seen[8:]):
            decay = min(0.9, (1 + age) / (10 + age))
            expected = decay * expected + (1 - decay) * weights
        assert torch.allclose(theirs["model.fc.weight"], expected, atol=1e-6)


def tapped(name, taps=()):
    model = create_model(name, num_classes=CLASSES, img_size=64, seed=0)
    return TappedModel(model, replace(PREPROCESS, img_size=64, store_size=64), taps)


def test_what_has_the_same_shape_of_small_images_may_be_tapped():
    for taps in ((), ("embedding",)):
        tapped("resnet18", taps).check_half_size()
    with pytest.raises(ModelError, match=r"'stage4' is then \[512, 1, 1\], and \[512, 2, 2\] of whole ones"):
        tapped("resnet18", ("embedding", "stage4")).check_half_size()


def test_a_network_of_one_size_is_refused():
    with pytest.raises(ModelError, match=r"half the size.*half_size_share[\s\S]*that reads images of any size"):
        tapped("test_vit_relpos").check_half_size()


def test_the_check_leaves_the_network_alone():
    network = tapped("resnet18", ("stage2",))
    before = {key: value.clone() for key, value in network.model.state_dict().items()}
    with pytest.raises(ModelError, match="stage2"):
        network.check_half_size()
    assert all(torch.equal(value, before[key]) for key, value in network.model.state_dict().items())
    assert network.training
    assert network(torch.rand(2, 3, 64, 64)).features["stage2"].shape[1:] == network.shapes["stage2"]
