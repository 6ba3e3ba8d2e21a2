"""The public names are pinned: a change here is a change for users and belongs into the changelog."""

import sapling

PUBLIC = [
    "Comparison",
    "RunConfig",
    "RunResult",
    "SaplingError",
    "TappedModel",
    "Verdict",
    "__version__",
    "compare",
    "create_model",
    "distill",
    "evaluate",
    "export",
    "inspect",
    "load_data",
    "load_model",
    "predict",
    "save_model",
    "train",
    "write_report",
]


def test_public_names():
    assert sapling.__all__ == PUBLIC
    for name in PUBLIC:
        value = getattr(sapling, name)
        assert name == "__version__" or value.__doc__, name


def test_version_is_the_distribution_s():
    from importlib.metadata import version

    assert sapling.__version__ == version("sapling-kd")


def test_unknown_names_are_refused():
    assert not hasattr(sapling, "distil")
