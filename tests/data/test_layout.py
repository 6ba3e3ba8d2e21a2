from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling.data.layout import arrange, is_printable_name, is_visible
from sapling.errors import DataError


def placed(*paths: str) -> dict[str, tuple[str, str | None]]:
    layout = arrange(paths, where="here")
    return {item.key: (layout.classes[item.label], item.split) for item in layout.items}


def test_one_folder_per_class_has_no_split():
    assert placed("dog/2.jpg", "cat/1.jpg") == {"cat/1.jpg": ("cat", None), "dog/2.jpg": ("dog", None)}


@pytest.mark.parametrize("prefix", ["", "eurosat_rgb/", "a/b/c/"])
def test_folders_that_all_images_share_are_no_class(prefix):
    assert placed(f"{prefix}cat/1.jpg", f"{prefix}dog/2.jpg") == placed("cat/1.jpg", "dog/2.jpg")


def test_an_image_beside_the_shared_folder_does_not_matter():
    assert placed("logo.png", "x/readme.png", "x/cat/1.jpg", "x/dog/2.jpg") == placed("cat/1.jpg", "dog/2.jpg")
    assert arrange(["x/logo.png", "x/cat/1.jpg", "x/dog/2.jpg"], where="").notes == (
        "Ignored: 1 image outside of the class folders.",
    )


@pytest.mark.parametrize(("train", "val", "test"), [("train", "val", "test"), ("Training", "validation", "TESTING")])
def test_given_splits(train, val, test):
    paths = [f"x/{train}/a/1.png", f"x/{train}/b/2.png", f"x/{val}/a/3.png", f"x/{test}/b/4.png"]
    assert placed(*paths) == {
        f"{train}/a/1.png": ("a", "train"),
        f"{train}/b/2.png": ("b", "train"),
        f"{val}/a/3.png": ("a", "val"),
        f"{test}/b/4.png": ("b", "test"),
    }


def test_splits_inside_of_the_classes_are_given_splits_too():
    assert placed("a/train/1.png", "a/test/2.png", "b/train/3.png") == {
        "a/test/2.png": ("a", "test"),
        "a/train/1.png": ("a", "train"),
        "b/train/3.png": ("b", "train"),
    }


def test_an_image_beside_the_splits_of_a_class_hides_no_split():
    paths = ["a/train/1.png", "a/test/2.png", "b/train/3.png", "b/test/4.png"]
    layout = arrange([*paths, "a/cover.png"], where="")
    assert {item.key: item.split for item in layout.items} == {p: p.split("/")[1] for p in paths}
    assert layout.notes == ("Ignored: 1 image directly in a class folder, beside its split folders.",)
    with pytest.raises(DataError, match="'a/holdout' stands beside the split folders"):
        arrange([*paths, "a/holdout/5.png"], where="")
    # a class that has no splits is no such layout
    assert {split for _, split in placed(*paths, "c/6.png").values()} == {None}


def test_a_class_may_be_called_train():
    assert placed("bus/1.jpg", "train/2.jpg") == {"bus/1.jpg": ("bus", None), "train/2.jpg": ("train", None)}


def test_unlabelled_test_images_are_left_out_and_said():
    layout = arrange(["train/a/1.png", "train/b/2.png", "test/3.png"], where="")
    assert {item.split for item in layout.items} == {"train"}
    assert layout.notes == ("Ignored: 1 image directly in a split folder, without a class folder.",)


def test_hidden_files_and_leftovers_are_no_images():
    rubbish = [
        "__MACOSX/cat/._1.jpg",
        "cat/.hidden.png",
        ".git/cat/9.png",
        "cat/Thumbs.db",
        "cat/desktop.ini",
    ]
    layout = arrange([*rubbish, "cat/1.jpg", "dog/2.jpg"], where="")
    assert [item.key for item in layout.items] == ["cat/1.jpg", "dog/2.jpg"]
    assert layout.notes == ()


def test_other_files_are_counted_by_kind():
    layout = arrange(["cat/1.jpg", "dog/2.JPEG", "dog/a.txt", "b.txt", "README"], where="")
    assert layout.notes == (
        "Ignored: 3 files not named as images (2 .txt, 1 without a suffix), for example README, b.txt, dog/a.txt.",
    )


def test_deeper_folders_count_to_their_class_and_it_is_said():
    layout = arrange(["cat/farm/1.jpg", "cat/2.jpg", "dog/3.jpg"], where="")
    assert [layout.classes[item.label] for item in layout.items] == ["cat", "cat", "dog"]
    assert "1 image in folders below a class folder" in layout.notes[0]


def test_one_name_in_two_spellings_is_one_class():
    composed, taken_apart = "caf\u00e9", "cafe\u0301"
    layout = arrange([f"train/{composed}/1.png", "train/b/2.png", f"test/{taken_apart}/3.png"], where="")
    assert layout.classes == ("b", composed)
    assert {item.key for item in layout.items} >= {f"test/{taken_apart}/3.png"}  # the path stays what it is


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        ([], "no image was found"),
        (["cat/a.txt"], "no image was found; ignored: 1 file not named as images"),
        (["1.jpg", "2.jpg"], "no class folders"),
        (["cat/1.jpg", "cat/2.jpg"], "only one class, 'cat'"),
        (["train/cat/1.jpg", "test/cat/2.jpg"], "only one class"),
        (["train/a/1.png", "train/b/2.png", "extra/a/3.png"], "'extra' stands beside"),
        (["a\nb/1.png", "c/2.png"], "cannot be printed"),
        (["a\udcff/1.png", "c/2.png"], "cannot be printed"),
        ([" a/1.png", "c/2.png"], "cannot be printed"),
    ],
)
def test_what_cannot_be_used_is_named(paths, says):
    with pytest.raises(DataError, match=says) as caught:
        arrange(paths, where="here")
    str(caught.value).encode()  # printable whatever the names were
    assert caught.value.where == "here"


names = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="/\\."), min_size=1, max_size=8).filter(
    is_visible
)


@given(
    st.lists(names, min_size=2, max_size=5, unique=True),
    st.integers(1, 4),
    st.lists(names, max_size=3),
    st.randoms(),
)
def test_order_and_shared_folders_never_matter(classes, each, prefix, random):
    paths = [f"{name}/{k}.png" for name in classes for k in range(each)]
    base = arrange(paths, where="")
    shuffled = ["/".join([*prefix, path]) for path in paths]
    random.shuffle(shuffled)
    again = arrange(shuffled, where="")
    assert again.items == base.items
    assert again.classes == base.classes == tuple(sorted(base.classes))
    assert [again.prefix + item.key for item in again.items] == sorted(shuffled)


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\u202e", "\u2066", "\n", "\x1b"])
def test_a_name_that_breaks_or_turns_lines_is_no_class_name(letter):
    assert not is_printable_name(f"a{letter}b")
    assert is_printable_name("Ahorn, 枫树 (عربي)")
