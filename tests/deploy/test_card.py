from __future__ import annotations

from sapling.deploy.card import write_model_card

RESULTS = {
    "name": "trees",
    "sapling_version": "0.1.0",
    "manifest": {
        "student": "sapling_cnn3",
        "teacher": "resnet34",
        "method": "kd",
        "seeds": [0, 1, 2],
        "epochs": 30,
        "img_size": 64,
        "split": {"train": 700, "val": 150, "test": 150},
        "data": {"source": "trees.zip", "fingerprint": "abc"},
    },
    "classes": ["Acer", "水杉", "<script>alert(1)</script>", "a|b`*_"],
    "teacher": {
        "model": "resnet34",
        "origin": "trained here",
        "parameters": 21_000_000,
        "macs": 3,
        "test": {"top1": 0.97},
    },
    "members": [
        {"name": "control-s0", "arm": "control", "test": {"top1": 0.8}},
        {
            "name": "kd-s1",
            "arm": "kd",
            "parameters": 94_762,
            "macs": 41_288_960,
            "test": {"top1": 0.9123, "top5": None, "macro_f1": 0.9, "ece": 0.02, "num_images": 1500},
        },
    ],
    "comparison": {
        "measure": "top1",
        "verdict": {
            "statement": "Distillation helped.",
            "scope": "One teacher.",
            "measure": "top1",
            "difference": 0.0123,
            "low": 0.004,
            "high": 0.02,
            "confidence": 0.95,
            "num_seeds": 3,
        },
    },
    "shipped": {"member": "kd-s1", "arm": "kd", "reason": "best on validation"},
    "deploy": {
        "onnx": {"path": "model.onnx", "bytes": 407_000, "threads": 2, "latency_ms": {"1": {"p50": 0.5, "p95": 1}}}
    },
    "warnings": ["The gate was overridden."],
}


def test_the_card_says_what_a_reader_needs(tmp_path):
    write_model_card(tmp_path, RESULTS)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for part in (
        "91.23 %",
        "97.00 %",
        "1,500 test images",
        "+1.23 percentage points, 95 % interval +0.40 to +2.00",
        "Distillation helped.",
        "One teacher.",
        "`kd-s1`",
        "best on validation",
        "94,762",
        "resnet34",
        "The gate was overridden.",
        "import sapling.models",
        "pretrained=True",
        "**Without `pretrained=True` timm silently gives random weights.**",
        "水杉",
        "0.41 MB",
        "model.onnx",
        "700, 150, 150",
    ):
        assert part in text, part
    assert "80.00 %" not in text, "the control's figures are not this model's"
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_student_that_was_not_distilled_learned_by_no_method(tmp_path):
    write_model_card(tmp_path, {**RESULTS, "shipped": {**RESULTS["shipped"], "arm": "control"}})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "* method: none: it learned from the labels alone" in text


def test_hostile_names_stay_text(tmp_path):
    write_model_card(tmp_path, {**RESULTS, "name": "x\n# y <img src=x>"})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    assert text.splitlines()[0] == "# x \\# y &lt;img src=x\\>"
    assert "a\\|b\\`\\*\\_" in text


def test_missing_parts_are_left_out(tmp_path):
    write_model_card(tmp_path, {})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "not measured" in text
    assert "None" not in text
    write_model_card(tmp_path, {"task": "train", "members": [{"name": "m", "test": {"top1": 0.5}}]})
    assert "50.00 %" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_many_classes_are_cut(tmp_path):
    write_model_card(tmp_path, {**RESULTS, "classes": [f"class{i}" for i in range(200)]})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "and 150 more" in text
    assert "class199" not in text
