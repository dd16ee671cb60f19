"""From a trained network to four ONNX files: an encoder per modality and the fusion. Writes files where it is told.

Graphs: dynamo exporter, opset 18, weights inside. Encoders take any number of images, the fusion any number of sides.
int8: static quantisation (QDQ, uint8 activations, int8 weights per channel) of the encoders' convolutions only; the
fusion stays in float, because quantising it broke probabilities and heat-maps in the feasibility study.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from casework.modelspec import SLOTS
from models.cman.net.cman import Fusion
from models.cman.net.config import CHANNELS, MODALITIES, NetConfig

OPSET = 18
logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # its notes on torchvision, which is not used
FUSION_OUTPUTS = ("logit", "evidence", "mg_heat", "mr_heat", "us_heat")


def _write(  # noqa: PLR0917  # private, called twice
    module: nn.Module, args: tuple[torch.Tensor, ...], names: list[str], outputs: list[str], axis: str, path: Path
) -> None:
    dimension = torch.export.Dim(axis, min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation notes
        program = torch.onnx.export(
            module.eval(),
            args,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=tuple({0: dimension} for _ in args),
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    # Names of source files and stack traces of the exporting machine have no place in a release.
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    onnx.save(model, str(path))


NAMES = {**{m: f"encoder-{m.lower()}.onnx" for m in MODALITIES}, "fusion": "fusion.onnx"}


def write_encoder(encoder: nn.Module, modality: str, config: NetConfig, folder: Path) -> Path:
    """Write one encoder in float under its name."""
    path = folder / NAMES[modality]
    example = torch.rand(2, CHANNELS[modality], config.input_size, config.input_size)
    _write(encoder, (example,), ["images"], ["tokens"], "n", path)
    return path


def write_fusion(fusion: Fusion, folder: Path) -> None:
    """Write the fusion under its name."""
    config, grid = fusion.config, fusion.config.grid
    maps = tuple(torch.rand(2, len(SLOTS[m]), config.width, grid, grid) for m in MODALITIES)
    masks = tuple(torch.ones(2, len(SLOTS[m])) for m in MODALITIES)
    inputs = [m.lower() for m in MODALITIES] + [f"{m.lower()}_mask" for m in MODALITIES]
    _write(fusion, (*maps, *masks), inputs, list(FUSION_OUTPUTS), "sides", folder / NAMES["fusion"])


class _Images(CalibrationDataReader):
    """Calibration images, a few at a time."""

    def __init__(self, images: NDArray[np.float32], batch: int = 8) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(
            [images[n : n + batch] for n in range(0, len(images) // batch * batch, batch)]
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch, or None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def quantise(path: Path, images: NDArray[np.float32]) -> None:
    """Replace an encoder's file by its int8 form, calibrated on `images` (n, C, S, S).

    Weights use seven bits: without VNNI, AVX2 sums pairs of 8 x 8 bit products in 16 bits and would saturate, and the
    same file must give the same answer on every machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(path),
            _Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
