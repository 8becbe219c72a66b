"""Model card (README.md) of an exported folder, in the format of the Hugging Face hub."""

import json
from collections.abc import Sequence
from string import Template

from torch import nn

from dat_train.export.preprocessing import Preprocessing
from dat_train.models import count_parameters

MAX_CLASSES = 20  # class names listed

_CARD = Template("""\
---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
$tags$results---
# $name

$kind (`$architecture`) for $classes classes, with $parameters M parameters, trained with `dat-train`.

| | |
| --- | --- |
$properties

## Use

$requirement

```python
import timm
import torch
from PIL import Image
$registration
model = timm.create_model("local-dir:PATH/TO/THIS/FOLDER", pretrained=True).eval()  # or "hf-hub:YOU/NAME"
config = timm.data.resolve_data_config(model.pretrained_cfg)
transform = timm.data.create_transform(**config)

with torch.inference_mode():
    probabilities = model(transform(Image.open("image.jpg").convert("$mode")).unsqueeze(0)).$activation[0]
$printed
```

## Preprocessing

$preprocessing

## Classes

$labels
$papers""")

_PRINT_BEST = 'print(model.pretrained_cfg["label_names"][probabilities.argmax()], probabilities.max().item())'
_PRINT_LABELS = 'print([name for name, p in zip(model.pretrained_cfg["label_names"], probabilities) if p >= 0.5])'
_PAPERS = """
## Papers

- Xia et al., *Vision Transformer with Deformable Attention*, CVPR 2022, arXiv:2201.00520
- Xia et al., *DAT++: Spatially Dynamic Vision Transformer with Deformable Attention*, arXiv:2309.01430
"""


def model_card(
    model: nn.Module,
    *,
    name: str,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    properties: Sequence[tuple[str, str]],
    result: tuple[str, float] | None = None,
    data: str | None = None,
    multi_label: bool = False,
) -> str:
    """Text of the model card.

    Args:
        model: created by timm.create_model.
        name: title.
        properties: (topic, text) rows of a table about weights and training.
        result: the hub's name of the metric and its value between 0 and 1 on the validation set of `data`.
        multi_label: an image has any number of the classes.
    """
    architecture = model.pretrained_cfg["architecture"]
    ours = type(model).__module__.startswith("dat_train.")
    if ours:
        requirement = "timm knows this architecture after `import dat_train.models` (Python package `dat-train`)."
    else:
        requirement = "The model is part of timm; `dat-train` is not needed."
    return _CARD.substitute(
        name=name,
        kind="A Deformable Attention Transformer" if ours else "An image classification model of timm",
        architecture=architecture,
        classes=f"{len(classes):,}",
        parameters=f"{count_parameters(model) / 1e6:.2f}",
        tags="- deformable-attention\n" if ours else "",
        results=_results(name, result, data) if result is not None and data else "",
        activation="sigmoid()" if multi_label else "softmax(-1)",
        printed=_PRINT_LABELS if multi_label else _PRINT_BEST,
        properties="\n".join(f"| {topic} | {_cell(text)} |" for topic, text in properties),
        requirement=requirement,
        registration=f"\nimport dat_train.models  # registers {architecture}\n" if ours else "",
        mode=preprocessing.color_mode,
        preprocessing=_preprocessing(preprocessing),
        labels=_labels(classes),
        papers=_PAPERS if ours else "",
    )


def _results(name: str, result: tuple[str, float], data: str) -> str:
    """`model-index` of the hub. Strings quoted as in JSON are valid YAML."""
    return (
        "model-index:\n"
        f"- name: {json.dumps(name)}\n"
        "  results:\n"
        "  - task: {type: image-classification}\n"
        f"    dataset: {{name: {json.dumps(data)}, type: {json.dumps(data)}, split: validation}}\n"
        f"    metrics: [{{type: {result[0]}, value: {result[1]:.4f}}}]\n"
    )


def _preprocessing(steps: Preprocessing) -> str:
    config = steps.as_timm()
    side = round(config["input_size"][-1] / config["crop_pct"])
    colors = "Grayscale" if steps.color_mode == "L" else "RGB"
    how = "the short side to" if steps.resize == "short_side" else "without keeping the aspect ratio, to a square of"
    numbers = "; ".join(f"{kind} {', '.join(f'{v:g}' for v in values)}" for kind, values in
                        (("mean", steps.mean), ("standard deviation", steps.std)))  # fmt: skip
    return (
        f"{colors}, resized ({how} {side} pixels, {steps.interpolation}, antialiased), center crop "
        f"{steps.img_size} x {steps.img_size}, divided by 255, normalized ({numbers}). timm's transform above does "
        "this from `config.json`."
    )


def _labels(classes: Sequence[str]) -> str:
    shown = ", ".join(f"`{_cell(name)}`" for name in classes[:MAX_CLASSES])
    if len(classes) <= MAX_CLASSES:
        return shown
    return f"{shown}, ... ({len(classes):,} in total, `label_names` in `config.json`)"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
