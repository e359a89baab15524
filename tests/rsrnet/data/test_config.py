"""The configuration of the data."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rsrnet.config import ConfigError
from rsrnet.data.config import DataConfig


def test_only_the_root_has_no_default() -> None:
    config = DataConfig(root="iharmony4")
    assert (config.train, config.val, config.test, config.size) == (
        "le50_train.txt",
        None,
        "le50_test.txt",
        224,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"root": ""},
        {"train": ""},
        {"val": ""},
        {"val_fraction": 0.0},
        {"val_fraction": 1.0},
        {"test": ""},
        {"subsets": ("HCOCO", "HAdobe")},
        {"size": 8},
        {"on_bad_image": "ignore"},
        {"loader_processes": -1},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_impossible_value_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        DataConfig(**{"root": "iharmony4", **wrong})  # type: ignore[arg-type]
    assert [problem.field for problem in refused.value.problems] == list(wrong)


def test_unknown_sub_dataset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean HAdobe5k\?"):
        DataConfig(root="iharmony4", subsets=("HAdobe",))


def test_sub_datasets_may_be_spelled_in_any_case() -> None:
    assert DataConfig(root="iharmony4", subsets=("hcoco", "HDay2Night")).subsets == ("hcoco", "HDay2Night")


def test_configuration_does_not_load_torch() -> None:
    code = "import sys, rsrnet.data.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
