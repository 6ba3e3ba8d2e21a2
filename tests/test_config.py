"""Settings: every error at once, the nearest name, short forms, and a text that reads back."""

import hashlib
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sapling import config
from sapling.data.listing import Columns
from sapling.errors import ConfigError


def test_short_forms_equal_long_forms():
    short = config.build({"data": "digits", "teacher": "resnet34", "method": "dkd", "output": "runs/x"})
    long = config.build(
        {
            "data": {"source": "digits"},
            "teacher": {"model": "resnet34"},
            "method": {"name": "dkd"},
            "output": {"folder": "runs/x"},
        }
    )
    assert short == long


def test_all_errors_come_at_once_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        config.build(
            {
                "data": {"source": "digits", "imgsize": 64},
                "train": {"optimizer": "adam", "epochs": 0},
                "method": {"name": "kd", "temprature": 2},
                "studnt": "cnn3",
            }
        )
    text = str(caught.value)
    assert "5 settings are wrong" in text
    assert "data.imgsize: unknown setting; did you mean 'img_size'?" in text
    assert "train.optimizer: 'adam' is not allowed (sgd, adamw)" in text
    assert "train.epochs: 0 is not allowed" in text
    assert "temprature" in text
    assert "'temperature'" in text
    assert "studnt: unknown setting; did you mean 'student'?" in text
    assert caught.value.exit_code == 2


def test_unknown_method_is_named():
    with pytest.raises(ConfigError, match="kdd"):
        config.build({"data": "digits", "method": "kdd"})


def test_missing_data_is_said():
    with pytest.raises(ConfigError, match="data: missing"):
        config.build({"teacher": "resnet18"})


def test_columns_of_a_csv_are_settings_that_older_runs_do_not_know():
    made = config.build({"data": {"source": "x.csv", "group_column": "tree"}}).data
    assert made.columns == Columns("image", "label", "tree")
    older = config.build({"data": "x.csv"})
    assert config.build({"data": {"source": "x.csv", "image_column": "image"}}).fingerprint() == older.fingerprint()
    assert config.build({"data": {"source": "x.csv", "label_column": "y"}}).fingerprint() != older.fingerprint()
    with pytest.raises(ConfigError, match="give one of them"):
        config.build({"data": {"source": "x.csv", "group_column": "tree", "group_pattern": "x"}})


def test_views_are_checked():
    with pytest.raises(ConfigError, match="did you mean 'aerial'"):
        config.build({"data": {"source": "digits", "views": "arial"}})


def test_override_opens_short_forms():
    blocks = config.override({"data": "digits", "method": "kd"}, {"method.temperature": 2, "train.lr": 0.1})
    assert blocks == {"data": "digits", "method": {"name": "kd", "temperature": 2}, "train": {"lr": 0.1}}
    with pytest.raises(ConfigError, match="no setting"):
        config.override({}, {"epochs": 3})


def test_override_reaches_into_a_setting_that_is_a_mapping():
    blocks = config.override({"data": "digits"}, {"data.view_options.flip": False, "data.view_options.scale": [0.5, 1]})
    assert blocks == {"data": {"source": "digits", "view_options": {"flip": False, "scale": [0.5, 1]}}}
    made = config.build(config.override(blocks, {"data.view_options.hue": 0, "method.weights.ce": 0.5}))
    assert made.data.view_options == {"flip": False, "hue": 0.0, "scale": [0.5, 1.0]}
    assert made.method.options == {"weights": {"ce": 0.5}}


def test_view_options_are_one_setting_however_they_are_written():
    one = config.build({"data": {"source": "digits", "view_options": {"scale": [0.5, 1], "hue": 0}}})
    other = config.build({"data": {"source": "digits", "view_options": {"hue": 0.0, "scale": (0.5, 1.0)}}})
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != config.build({"data": "digits"}).fingerprint()
    assert config.build(yaml.safe_load(config.save(one))) == one


def test_view_options_are_checked_with_their_preset():
    for options, words in (({"flipp": 1, "hue": 2}, "flipp.*hue is 2"), ({"operations": 14}, "omit leaves 11")):
        with pytest.raises(ConfigError, match=words):
            config.build({"data": {"source": "digits", "views": "aerial_strong", "view_options": options}})


@pytest.mark.parametrize(("text", "value"), [("a.b=1", 1), ("a.b=x y", "x y"), ("a.b=[1, 2]", [1, 2]), ("a.b=", None)])
def test_assignments_are_yaml(text, value):
    assert config.parse_assignment(text) == ("a.b", value)


@pytest.mark.parametrize("text", ["a.b", "=1", "a.b=[1"])
def test_bad_assignments_are_refused(text):
    with pytest.raises(ConfigError):
        config.parse_assignment(text)


@given(
    epochs=st.integers(1, 1000) | st.none(),
    lr=st.floats(1e-6, 10),
    source=st.text(min_size=1, max_size=30).filter(str.strip),
    alpha=st.floats(0, 1),
)
def test_saved_settings_read_back_the_same(epochs, lr, source, alpha):
    made = config.build(
        {"data": source, "train": {"epochs": epochs, "lr": lr}, "method": {"name": "kd", "alpha": alpha}}
    )
    again = config.build(yaml.safe_load(config.save(made)))
    assert again == made
    assert again.fingerprint() == made.fingerprint()


def test_fingerprint_ignores_the_output_and_sees_everything_else():
    base = config.build({"data": "digits"})
    assert config.build({"data": "digits", "output": "elsewhere"}).fingerprint() == base.fingerprint()
    for other in ({"train": {"seed": 1}}, {"method": {"name": "kd", "temperature": 2}}, {"teacher": "resnet34"}):
        assert config.build({"data": "digits", **other}).fingerprint() != base.fingerprint()


def test_default_folder_holds_no_separators():
    made = config.build({"data": "a/b/街 trees.zip", "student": "hf-hub:x/y", "method": "kd"})
    assert made.default_folder() == "runs/街_trees-hf_hub_x_y-kd"


@pytest.mark.parametrize("content", ["- 1", "", "a: [", "\x00"])
def test_bad_files_are_refused(tmp_path, content):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert "c.yaml" in str(caught.value)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path / "none.yaml")


def test_settings_that_are_younger_than_a_run_do_not_shut_it_out():
    base = config.build({"data": "digits"})
    go_on = {"teacher": {"accept_weak"}, "data": {"allow_leaks"}, "train": {"members_per_pass"}}
    content = base.model_dump(mode="json", exclude={"output": True, **go_on})
    for block, defaults in config.YOUNGER.items():
        for key, value in defaults.items():
            assert content[block].pop(key) == value  # the defaults are those of the fields
    content["method"] = {k: float(v) if isinstance(v, int) else v for k, v in content["method"].items()}
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() == base.fingerprint()
    fails = config.build({"data": {"source": "digits", "on_bad_image": "fail"}})
    assert fails.fingerprint() != base.fingerprint()


def test_a_split_file_leaves_nothing_to_cut():
    with pytest.raises(ConfigError, match="data: split_file holds the whole split: split_seed can change nothing"):
        config.build({"data": {"source": "digits", "split_file": "s.csv", "split_seed": 1}})
    made = config.build({"data": {"source": "digits", "split_file": "s.csv"}})
    assert config.build(yaml.safe_load(config.save(made))) == made


def test_a_run_that_names_no_method_takes_dist():
    for blocks in ({}, {"method": {"temperature": 2}}, {"method": {"name": "dist"}}):
        assert config.build({"data": "digits", **blocks}).method.name == "dist"
    with pytest.raises(ConfigError, match="standardize: unknown setting of method 'dist'"):
        config.build({"data": "digits", "method": {"standardize": True}})


@pytest.mark.parametrize("text", ["2024-02-30", "2024-13-45", "[" * 9999])
def test_text_on_which_the_yaml_parser_fails_is_no_traceback(tmp_path, text):
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.parse_assignment(f"output.folder={text}")
    (tmp_path / "c.yaml").write_text(f"data: {text}\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(tmp_path / "c.yaml")
