"""HGNetV2 in Paddle Inference, timed on command by ``bench_onnx.py`` (``harness.Elsewhere``).

Runs with the Python of an environment that has ``paddlepaddle`` and NumPy; nothing of this project
is imported. Argument: a folder with ``sizes.json`` (a row of ``VARIANTS``), ``weights.pdparams``
and ``images.npy``. It builds the network in ``paddle.nn``, saves it as an inference model, loads
that with oneDNN on as many threads as OMP_NUM_THREADS says, writes ``logits.npy``, says its
version, and makes a call for every line on standard input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import paddle
from paddle import inference, nn


class Affine(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        one = nn.initializer.Constant(1.0)
        self.scale = self.create_parameter([1], default_initializer=one)
        self.bias = self.create_parameter([1], is_bias=True)

    def forward(self, x):
        return self.scale * x + self.bias


class ConvBNAct(nn.Layer):
    def __init__(self, inputs, outputs, kernel, stride=1, groups=1, act=True, lab=False) -> None:
        super().__init__()
        pad = "SAME" if kernel == 2 else kernel // 2
        self.conv = nn.Conv2D(inputs, outputs, kernel, stride, pad, groups=groups, bias_attr=False)
        self.bn = nn.BatchNorm2D(outputs)
        self.act = nn.ReLU() if act else nn.Identity()
        self.lab = Affine() if act and lab else nn.Identity()

    def forward(self, x):
        return self.lab(self.act(self.bn(self.conv(x))))


class LightConvBNAct(nn.Layer):
    def __init__(self, inputs, outputs, lab) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(inputs, outputs, 1, act=False)
        self.conv2 = ConvBNAct(outputs, outputs, 5, groups=outputs, lab=lab)

    def forward(self, x):
        return self.conv2(self.conv1(x))


class Stem(nn.Layer):
    def __init__(self, middle, outputs, lab) -> None:
        super().__init__()
        self.stem1 = ConvBNAct(3, middle, 3, 2, lab=lab)
        self.stem2a = ConvBNAct(middle, middle // 2, 2, lab=lab)
        self.stem2b = ConvBNAct(middle // 2, middle, 2, lab=lab)
        self.stem3 = ConvBNAct(2 * middle, middle, 3, 2, lab=lab)
        self.stem4 = ConvBNAct(middle, outputs, 1, lab=lab)
        self.pool = nn.MaxPool2D(2, 1, "SAME")

    def forward(self, x):
        x = self.stem1(x)
        y = self.stem2b(self.stem2a(x))
        return self.stem4(self.stem3(paddle.concat([self.pool(x), y], 1)))


class Block(nn.Layer):
    def __init__(self, inputs, middle, outputs, layers, light, residual, lab) -> None:
        super().__init__()
        self.layers = nn.LayerList()
        for index in range(layers):
            before = middle if index else inputs
            self.layers.append(
                LightConvBNAct(before, middle, lab)
                if light
                else ConvBNAct(before, middle, 3, lab=lab)
            )
        total = inputs + layers * middle
        self.aggregation_squeeze_conv = ConvBNAct(total, outputs // 2, 1, lab=lab)
        self.aggregation_excitation_conv = ConvBNAct(outputs // 2, outputs, 1, lab=lab)
        self.residual = residual

    def forward(self, x):
        parts = [x]
        for layer in self.layers:
            parts.append(layer(parts[-1]))
        y = self.aggregation_excitation_conv(self.aggregation_squeeze_conv(paddle.concat(parts, 1)))
        return y + x if self.residual else y


class Stage(nn.Layer):
    def __init__(self, inputs, number, sizes) -> None:
        super().__init__()
        self.downsample = (
            ConvBNAct(inputs, inputs, 3, 2, groups=inputs, act=False) if number else nn.Identity()
        )
        middle, outputs = sizes["mid"][number], sizes["out"][number]
        self.blocks = nn.Sequential(
            *[
                Block(
                    outputs if index else inputs, middle, outputs, sizes["layers"],
                    light=number > 1, residual=index > 0, lab=sizes["lab"],
                )
                for index in range(sizes["depths"][number])
            ]
        )  # fmt: skip

    def forward(self, x):
        return self.blocks(self.downsample(x))


class HGNetV2(nn.Layer):
    def __init__(self, sizes) -> None:
        super().__init__()
        lab = sizes["lab"]
        self.stem = Stem(*sizes["stem"], lab)
        before = [sizes["stem"][1], *sizes["out"]]
        self.stages = nn.LayerList([Stage(before[n], n, sizes) for n in range(4)])
        self.last_conv = nn.Conv2D(sizes["out"][-1], 2048, 1, bias_attr=False)
        self.act = nn.ReLU()
        self.lab = Affine() if lab else nn.Identity()
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        x = self.last_conv(x.mean([2, 3], keepdim=True))
        return self.fc(self.lab(self.act(x)).flatten(1))


def predictor(folder: Path):
    """The network as Paddle Inference runs it on a CPU: oneDNN, float32."""
    network = HGNetV2(json.loads((folder / "sizes.json").read_text()))
    state = paddle.load(str(folder / "weights.pdparams"))
    missing, unexpected = network.set_state_dict(state)
    assert not missing and not unexpected, (missing, unexpected)
    network.eval()
    spec = [paddle.static.InputSpec([None, 3, 224, 224], "float32")]
    paddle.jit.save(network, str(folder / "inference"), input_spec=spec)
    program = next(p for p in folder.glob("inference.*") if p.suffix in (".json", ".pdmodel"))
    config = inference.Config(str(program), str(folder / "inference.pdiparams"))
    config.disable_gpu()
    config.disable_glog_info()
    config.enable_mkldnn()
    config.set_cpu_math_library_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config.enable_new_ir(True)
    config.enable_new_executor(True)
    config.enable_memory_optim()
    config.switch_ir_optim(True)
    return inference.create_predictor(config)


def main() -> None:
    folder = Path(sys.argv[1])
    loaded = predictor(folder)
    given = loaded.get_input_handle(loaded.get_input_names()[0])
    answer = loaded.get_output_handle(loaded.get_output_names()[0])
    images = np.load(folder / "images.npy")

    def call() -> np.ndarray:
        given.copy_from_cpu(images)
        loaded.run()
        return answer.copy_to_cpu()

    np.save(folder / "logits.npy", call())
    print(json.dumps({"paddle": paddle.__version__}), flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        print(
            json.dumps([time.perf_counter() - wall, time.process_time() - cpu]),
            flush=True,
        )


if __name__ == "__main__":
    main()
