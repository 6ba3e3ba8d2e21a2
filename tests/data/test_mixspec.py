from __future__ import annotations

import pytest

from sapling.data.mixspec import MixSpec
from sapling.errors import ConfigError


def test_nothing_is_mixed_by_default():
    assert not MixSpec().is_on
    assert not MixSpec(mixup=1.0, share=0.0).is_on
    assert MixSpec(mixup=0.2).is_on
    assert MixSpec(cutmix=1.0, share=0.5).is_on


@pytest.mark.parametrize("wrong", [{"mixup": -1}, {"cutmix": float("nan")}, {"share": 1.1}, {"mixup": 1000}])
def test_out_of_range(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
        MixSpec(**wrong)
