from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.data.groups import group_texts, with_groups
from sapling.data.layout import Item
from sapling.data.namegroups import propose_group_pattern
from sapling.data.packed import prepare_image
from sapling.data.sources import open_source
from tests.data.pictures import listed_source, real
from tests.data.test_duplicates import scenes

SCENES = scenes(240, seed=5)
THINGS, EACH = 60, 4


def pictures_of(thing, own=True):
    """Pictures ``[N,S,S,3]``: those with one number show one thing, in a light and a noise of their own."""
    rng = np.random.default_rng(1)
    base = SCENES[np.asarray(thing) % len(SCENES)] if own else SCENES[rng.permutation(len(thing)) % len(SCENES)]
    noise = rng.normal(0, 12, base.shape) + rng.normal(0, 8, (len(base), 1, 1, 1))
    return (base + noise).clip(0, 255).astype(np.uint8)


def named(template, things=THINGS, each=EACH):
    """Keys, labels and the number of the thing of images of two classes."""
    rows = [(c, k, v) for c in range(2) for k in range(things // 2) for v in range(each)]
    keys = [template.format(c=["ash", "oak"][c], k=k, v=v, side=["left", "right"][v % 2]) for c, k, v in rows]
    return keys, np.array([c for c, _, _ in rows]), np.array([c * things // 2 + k for c, k, _ in rows])


def same_groups(keys, labels, pattern, thing):
    texts = group_texts(keys, [str(label) for label in labels], re.compile(pattern))
    return len(set(zip(texts, thing.tolist(), strict=True))) == len(set(texts)) == len(set(thing.tolist()))


@pytest.mark.parametrize(
    "template",
    [
        "train/{c}/{c}_{k}_view{v}00.png",
        "{c}/{c}{k}-frame-{v}.png",
        "{c}/{k}_crop_{v}.png",
        "{c}/site{k} rot{v}.png",
        "{c}/{k}_{v}.png",
        "{c}/P{k:03d}_{side}_{v}.png",
        "{c}/P{k:03d}/{v}.png",
        "{c}/img{k}{v}.png".replace("{v}", "abcd{v}"),
        "{c}/{v}_tree{k}.png",
        "{c}/IMG_{k} ({v}).png",
        "{c}/scan{k}t{v}.png",
    ],
)
def test_patterns_that_pixels_bear_out(template):
    keys, labels, thing = named(template)
    found = propose_group_pattern(keys, labels, pictures_of(thing))
    assert found is not None
    assert same_groups(keys, labels, found.pattern, thing)
    assert (found.num_groups, found.num_images) == (THINGS, len(keys))
    assert found.likeness > 0.9
    assert found.p_value < 1e-6
    assert len(found.examples) == 3
    # What pixels do not bear out is not proposed.
    assert propose_group_pattern(keys, labels, pictures_of(thing, own=False)) is None


def test_the_usual_pattern_is_written_as_people_write_it():
    keys, labels, thing = named("{c}/{c}_{k}_view{v}00.png")
    found = propose_group_pattern(keys, labels, pictures_of(thing))
    assert found is not None
    assert found.pattern == "(.+)_view"
    assert found.examples[0] == "ash: ash_0_view000.png, ash_0_view100.png, ash_0_view200.png, ash_0_view300.png"
    source = listed_source([Item(key, int(label)) for key, label in zip(keys, labels, strict=True)], 2)
    assert len({item.group for item in with_groups(source, found.pattern).items}) == THINGS


def test_copies_beside_their_originals():
    """Some pictures have copies with a word behind the name; the original has none."""
    keys, thing = [], []
    for k in range(80):
        keys.append(f"{['ash', 'oak'][k % 2]}/{k}.png")
        thing.append(k)
        for word in ("flip", "rot90", "copy") if k < 30 else ():
            keys.append(keys[-1].split("_")[0].removesuffix(".png") + f"_{word}.png")
            thing.append(k)
    labels = np.array([int(key.startswith("oak")) for key in keys])
    found = propose_group_pattern(keys, labels, pictures_of(thing))
    assert found is not None
    assert (found.num_groups, found.num_images) == (30, 120)


def test_of_patient_and_eye_the_patient_is_taken_where_eyes_look_alike():
    keys, labels, thing = named("{c}/P{k:03d}_{side}_{v}.png", each=6)
    found = propose_group_pattern(keys, labels, pictures_of(thing))
    assert found is not None
    assert same_groups(keys, labels, found.pattern, thing)
    side = np.array([thing[i] * 2 + ("right" in key) for i, key in enumerate(keys)])
    found = propose_group_pattern(keys, labels, pictures_of(side))
    assert found is not None
    assert same_groups(keys, labels, found.pattern, side)


@pytest.mark.parametrize(
    "template", ["{c}/{c}_{k}{v}.jpg", "{c}/{c} ({k}{v}).jpg", "{c}/{k}{v}.jpg", "{c}/IMG_{k}{v}_x.jpg"]
)
def test_a_number_for_each_image_is_no_group(template):
    keys, labels, thing = named(template)
    assert propose_group_pattern(keys, labels, pictures_of(thing, own=False)) is None


def test_the_same_number_in_two_classes_is_two_things():
    keys, labels, thing = named("{c}/{k}_view{v}.png")
    found = propose_group_pattern(keys, labels, pictures_of(thing))
    assert found is not None
    assert found.num_groups == THINGS


names = st.text(st.characters(exclude_characters="/"), max_size=12)
parts = st.lists(
    st.one_of(names, st.sampled_from(["view1", "a_1", "rot", "x (2).png", "[", "(", "\\d", "\udcff"])),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(parts, max_size=6), st.data())
def test_any_names_give_a_pattern_that_works_or_none(tops, data):
    few = SCENES[:8, :16, :16]
    keys = [
        "/".join(part) + end
        for part in tops
        for end in ("", "_1.png", "_2.png", " (3)", "_view4.png")
        for _ in range(4)
    ]
    labels = np.array([data.draw(st.integers(0, 2)) for _ in tops for _ in range(20)], dtype=np.int64)
    images = few[np.arange(len(keys)) // 5 % 8]
    found = propose_group_pattern(keys, labels, images)
    if found is not None:
        texts = group_texts(keys, [str(label) for label in labels], re.compile(found.pattern))
        counts = {text: texts.count(text) for text in texts if text is not None}
        assert sum(count > 1 for count in counts.values()) == found.num_groups
        assert sum(count for count in counts.values() if count > 1) == found.num_images


def test_real_trees_have_groups_and_aerial_images_have_none():
    trees, aerial = open_source(real("street_trees_lidar.zip")), open_source(real("aid_100.zip"))
    # Every sixth tree: enough to know it, and quick to decode.
    chosen = [item for item in trees.items if int(re.findall(r"_(\d+)_view", item.key)[0]) % 6 == 0]
    images = np.stack([prepare_image(trees.open(item), 32) for item in chosen])
    found = propose_group_pattern([item.key for item in chosen], np.array([item.label for item in chosen]), images)
    assert found is not None
    assert found.pattern == "(.+)_view"
    assert found.likeness > 0.8
    # No name of AID makes a candidate, so that no pixel is looked at.
    nothing = np.zeros((len(aerial.items), 4, 4, 3), np.uint8)
    assert propose_group_pattern([item.key for item in aerial.items], aerial.labels, nothing) is None
