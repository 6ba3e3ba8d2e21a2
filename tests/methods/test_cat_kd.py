"""CAT-KD against loops, and on maps that it must refuse."""

from __future__ import annotations

import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.losses.classmaps import class_map_error
from sapling.types import Outputs, PairInfo, Step
from tests.losses.test_hierarchical import draw
from tests.methods.hidden import K
from tests.methods.toys import batch

ONLY = Step(progress=0.5, terms=("cat",))


def make(student=(K, 4, 4), teacher=(K, 6, 6), **config):
    return methods.build("cat_kd", PairInfo(K, 9, {"class_map": student}, {"class_map": teacher}), **config)


def of(maps):
    return Outputs(torch.zeros(len(maps), K), {"class_map": maps})


def cell_means(maps, cells):
    """``[B,K,H,W]`` to lists of means over equal cells; H and W are multiples of their number."""
    height, width = maps.shape[2] // cells, maps.shape[3] // cells
    found = []
    for i in range(cells):
        for j in range(cells):
            part = maps[:, :, i * height : (i + 1) * height, j * width : (j + 1) * width].tolist()
            found.append([[sum(map(sum, k)) / (height * width) for k in image] for image in part])
    return found


@pytest.mark.parametrize("normalise", [False, True])
def test_is_the_naive_one(normalise):
    student, teacher = draw(1, 3, K, 4, 4), draw(2, 3, K, 6, 6)
    own, theirs = cell_means(student, 2), cell_means(teacher, 2)
    total = 0.0
    for b in range(3):
        for k in range(K):
            s, t = ([cell[b][k] for cell in side] for side in (own, theirs))
            if normalise:
                s, t = ([v / sum(x * x for x in side) ** 0.5 for v in side] for side in (s, t))
            total += sum((x - y) ** 2 for x, y in zip(s, t, strict=True)) / (3 * K * 4)
    got = make(normalise=normalise)(of(student), of(teacher), batch(batch_size=3), ONLY)["cat"]
    assert float(got) == pytest.approx(total, rel=1e-9)


def test_scale_matters_only_if_not_normalised():
    student, teacher = draw(1, 3, K, 4, 4), draw(2, 3, K, 4, 4)
    usual = class_map_error(student, teacher, normalise=True)
    torch.testing.assert_close(class_map_error(student * 7, teacher, normalise=True), usual)
    assert not torch.isclose(class_map_error(student * 7, teacher), class_map_error(student, teacher))
    assert class_map_error(student, student) == 0
    assert torch.isfinite(class_map_error(student * 0, teacher, normalise=True))


def test_tokens_are_a_map_and_few_positions_are_compared_as_they_are():
    maps = draw(1, 3, K, 4, 4)
    tokens = maps.flatten(2).transpose(1, 2)
    by_map = make((K, 4, 4), (K, 1, 2))(of(maps), of(draw(2, 3, K, 1, 2)), batch(batch_size=3), ONLY)["cat"]
    by_tokens = make((16, K), (K, 1, 2))(of(tokens), of(draw(2, 3, K, 1, 2)), batch(batch_size=3), ONLY)["cat"]
    torch.testing.assert_close(by_tokens, by_map)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(MethodError, match=r"the teacher's class map has 10 channels for 5 classes"):
        make(teacher=(2 * K, 4, 4))
    with pytest.raises(MethodError, match=r"single position: student \[4, 4\], teacher \[1, 1\]"):
        make(teacher=(K, 1, 1), normalise=True)
    make(teacher=(K, 1, 1))


def test_several_labels_per_image():
    shapes = {"class_map": (K, 2, 2)}
    assert "bce" in methods.build("cat_kd", PairInfo(K, 9, shapes, shapes, multi_label=True)).weights
