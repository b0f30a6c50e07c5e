"""What names of weights mean, without torch or timm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.weights.source_names import _defined_by_timm, check_name, check_trunk

QUICK = """
import sys
from pathlib import Path
from hgnetv2_pipeline.weights.source_names import check_name, check_trunk
check_name("timm:mobilenetv3_small_100", Path())
check_name("scratch:b4", Path())
check_trunk("simple", Path())
print(sorted({"torch", "timm", "torchvision"} & {*sys.modules}))
"""


def test_names_are_checked_without_importing_torch_or_timm() -> None:
    ran = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_what_the_files_of_timm_define_timm_knows() -> None:
    names = timm.list_models()
    found = [name for name in names[::40] if _defined_by_timm(name)]
    assert len(found) > len(names[::40]) * 0.9
    assert not _defined_by_timm("resnet1")
    assert not _defined_by_timm("Registry")


@pytest.mark.parametrize("name", ["resnet18x", "ResNet", "resnet18.nobody_in1k", "no-identifier"])
def test_other_names_are_refused_by_timm(name: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="unknown timm"):
        check_name(f"timm:{name}", tmp_path)
    with pytest.raises(ParameterError, match="unknown timm"):
        check_trunk(f"timm:{name}:pretrained", tmp_path)
