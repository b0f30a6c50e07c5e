"""Predicting on ONNX needs neither torch nor kedro nor pandas, nor even onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hgnetv2_pipeline

SCRIPT = """
import json, sys

BLOCKED = {"torch", "torchvision", "timm", "kedro", "mlflow", "dvc", "pandas", "pyarrow",
           "onnx", "sklearn", "matplotlib", "cv2", "scipy", "openvino", "tensorrt"}

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Wall())
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.prediction_formats import format_predict_cls
engine = load_engine(sys.argv[1], "ort")
records = engine.predict(sys.argv[2], topk=3)
print(json.dumps([format_predict_cls(record) for record in records]))
print(json.dumps(sorted(BLOCKED & set(sys.modules))))
"""


def test_predicting_on_onnx_imports_none_of_the_heavy_libraries(
    b0_onnx: Path, pictures: Path
) -> None:
    source = Path(hgnetv2_pipeline.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(b0_onnx), str(pictures)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(source), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    lines, seen = map(json.loads, done.stdout.splitlines())
    assert seen == []
    assert [line.partition(":")[0] for line in lines] == [
        "a.jpg", "b.PNG", "c.bmp", "é 7.webp", "zz.jpeg",
    ]  # fmt: skip
    assert "class id(s): [" in lines[0]
    assert "error" in lines[-1]
