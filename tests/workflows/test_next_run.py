"""A command that is proposed is a command that runs: what it says is read back by the real command line."""

import shlex

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling import cli_train
from sapling.cli import main
from sapling.config import RunConfig, build
from sapling.errors import ConfigError
from sapling.workflows.next_run import FLAGS, SWITCHES, changed, command_of


def read_back(command):
    """The settings that the command line makes of a command."""
    caught = []

    def catch(task, blocks, **_):
        caught.append((task, build(blocks)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_train, "_run", catch)
        program, *arguments = shlex.split(command)
        assert (program, main(arguments)) == ("sapling", 0)
    return caught[0]


def same(a, b):
    return a.fingerprint() == b.fingerprint() and a.model_dump(mode="json") == b.model_dump(mode="json")


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
SETTINGS = st.fixed_dictionaries(
    {"data": st.fixed_dictionaries({"source": WORDS}, optional={
        "img_size": st.integers(8, 64), "views": st.sampled_from(["none", "aerial"]), "mixup": st.floats(0, 2),
        "group_pattern": WORDS, "label_column": WORDS, "allow_leaks": st.booleans(), "val_share": st.floats(0.01, 0.4),
        "view_options": st.sampled_from([{}, {"flip": False}]), "bands": st.sampled_from([None, [4, 3, 2], "rgb"]),
        "multi_label": st.sampled_from(["auto", True, False]),
    })},
    optional={
        "teacher": st.fixed_dictionaries({}, optional={
            "model": st.sampled_from(["resnet34", "runs/a b/teacher", "-x/y", "resnet18=w's.pth"]),
            "epochs": st.integers(1, 9), "accept_weak": st.booleans(),
            "mean": st.sampled_from([None, [0.5, 1e-5, 0.1]]),
        }),
        "student": st.sampled_from(["cnn4", {"model": "resnet18", "pretrained": True, "freeze_backbone": True}]),
        "method": st.sampled_from([
            {"name": "kd", "alpha": 0.5, "temperature": 2}, {"name": "kd", "standardize": True},
            {"name": "dist", "weights": {"ce": 1e-5, "inter": 90.0}}, {"name": "dkd"},
            {"name": "-own/me thod.py", "a": "b: c"},
        ]),
        "train": st.fixed_dictionaries({}, optional={
            "lr": st.floats(1e-9, 1), "epochs": st.integers(1, 500), "num_seeds": st.integers(1, 9),
            "weight_decay": st.sampled_from([0, 1e-4, 1e-17]), "ema_decay": st.sampled_from([None, 0.9]),
            "precision": st.sampled_from(["fp32", "bf16"]), "layer_decay": st.sampled_from([None, 0.7]),
        }),
        "deploy": st.just({"onnx": False, "latency_seconds": 0}),
        "output": st.sampled_from(["runs/x y", "-o/1"]),
    },
)  # fmt: skip


@hypothesis.settings(max_examples=25)
@given(SETTINGS)
def test_a_command_says_all_settings(blocks):
    config = build(blocks)
    task, again = read_back(command_of(config))
    assert task == "distill"
    assert same(again, config)


def test_a_command_is_short_where_little_was_changed():
    config = build({"data": "photos.zip", "train": {"num_seeds": 5}})
    expected = "sapling distill photos.zip --teacher auto --student cnn3 --method dist --seeds 5"
    assert command_of(config) == expected
    several = build({"data": "x", "teacher": {"num_teachers": 2, "recipe": "mixed"}, "output": {"trackers": ["wandb"]}})
    words = "sapling distill x --teacher auto --student cnn3 --method dist --teachers 2 --teacher-recipe mixed"
    assert command_of(several) == f"{words} --track wandb"
    assert read_back(command_of(several))[1] == several
    assert command_of(build({"data": "-a b"})).startswith("sapling distill --set 'data.source=-a b' --teacher")


def test_the_flags_are_settings_that_exist():
    defaults = RunConfig.model_validate({"data": {"source": "x"}})
    for key in {*FLAGS, *SWITCHES} - {"method.alpha", "method.temperature"}:
        block, _, name = key.partition(".")
        assert hasattr(getattr(defaults, block), name), key


def test_changes_reach_the_settings_and_none_takes_one_of_the_methods_away():
    config = build({"data": "x", "method": {"name": "kd", "alpha": 0.3, "standardize": True}, "train": {"epochs": 3}})
    other = changed(
        config, {"train.epochs": None, "method.name": "dist", "method.alpha": None, "method.standardize": None}
    )
    assert (other.train.epochs, other.method.name, other.method.options) == (None, "dist", {})
    assert config.train.epochs == 3
    with pytest.raises(ConfigError, match="epochs"):
        changed(config, {"train.epochs": 0})
