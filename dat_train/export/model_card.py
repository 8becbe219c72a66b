"""The README.md of an exported folder: what the Hugging Face hub shows, and what a stranger needs to use it."""

import json
from collections.abc import Sequence
from string import Template

from dat_train.export.preprocessing import Preprocessing

SHOWN = 20  # class names

_CARD = Template("""\
---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- deformable-attention
$results---
# $name

A Deformable Attention Transformer (`$architecture`) for $classes classes with $parameters M parameters, trained with
the Python package `dat-train`.

| | |
| --- | --- |
$facts

## Use

timm knows the architecture once `dat_train.models` is imported, which needs that package; everything else is timm.

```python
import timm
import torch
from PIL import Image

import dat_train.models  # registers $architecture

model = timm.create_model("local-dir:PATH/TO/THIS/FOLDER", pretrained=True).eval()  # or "hf-hub:YOU/NAME"
config = timm.data.resolve_data_config(model.pretrained_cfg)
transform = timm.data.create_transform(**config)

with torch.inference_mode():
    probabilities = model(transform(Image.open("image.jpg").convert("RGB")).unsqueeze(0)).softmax(-1)[0]
print(model.pretrained_cfg["label_names"][probabilities.argmax()], probabilities.max().item())
```

## Preprocessing

$preprocessing

## Classes

$labels

## Papers

- Xia et al., *Vision Transformer with Deformable Attention*, CVPR 2022, arXiv:2201.00520
- Xia et al., *DAT++: Spatially Dynamic Vision Transformer with Deformable Attention*, arXiv:2309.01430
""")


def model_card(
    name: str,
    architecture: str,
    parameters: int,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    facts: Sequence[tuple[str, str]],
    top1: float | None = None,
    data: str | None = None,
) -> str:
    """The card as text.

    Args:
        name: of the model, the title.
        facts: (topic, text) rows of a table: what it was trained on and how.
        top1: percent, on the validation set of `data`; shown by the hub as a result.
    """
    return _CARD.substitute(
        name=name,
        architecture=architecture,
        classes=f"{len(classes):,}",
        parameters=f"{parameters / 1e6:.2f}",
        results=_results(name, top1, data) if top1 is not None and data else "",
        facts="\n".join(f"| {topic} | {_cell(text)} |" for topic, text in facts),
        preprocessing=_preprocessing(preprocessing),
        labels=_labels(classes),
    )


def _results(name: str, top1: float, data: str) -> str:
    """The hub's `model-index`; strings in JSON's quotes are YAML, too."""
    return (
        "model-index:\n"
        f"- name: {json.dumps(name)}\n"
        "  results:\n"
        "  - task: {type: image-classification}\n"
        f"    dataset: {{name: {json.dumps(data)}, type: {json.dumps(data)}, split: validation}}\n"
        f"    metrics: [{{type: accuracy, value: {top1 / 100:.4f}}}]\n"
    )


def _preprocessing(steps: Preprocessing) -> str:
    config = steps.as_timm()
    side = round(config["input_size"][-1] / config["crop_pct"])
    how = "the short side to" if steps.resize == "short_side" else "to a square, whatever the aspect ratio, of"
    numbers = "; ".join(f"{kind} {', '.join(f'{v:g}' for v in values)}" for kind, values in
                        (("mean", steps.mean), ("standard deviation", steps.std)))  # fmt: skip
    return (
        f"RGB, resized ({how} {side} pixels, {steps.interpolation}, antialiased), centre crop "
        f"{steps.img_size} x {steps.img_size}, divided by 255, normalised ({numbers}). timm's transform above does "
        "this from `config.json`."
    )


def _labels(classes: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in classes[:SHOWN])
    return shown + (f", ... ({len(classes):,} in all, `label_names` in `config.json`)" if len(classes) > SHOWN else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
