"""Help for people, made from conf/ and the schema, without importing Hydra or torch."""

import dataclasses
import re
import textwrap
from pathlib import Path
from typing import Any

from dat_train.commands.cli import GROUPS, choices, conf_dir
from dat_train.config import MISSING, SCHEMAS, flat, settings

_WIDTH = 110
_USAGE = {
    "train": """\
dat-train model=MODEL data=DATA [SETTING=VALUE ...]     train a Deformable Attention Transformer

  dat-train experiment=digits                                            a demo: minutes on two CPU cores
  dat-train model=dat_s data=imagenet data.root=/data/imagenet           the paper's recipe
  torchrun --nproc_per_node=8 -m dat_train.commands.train model=dat_s data=imagenet data.root=/data/imagenet
  dat-train model=dat_t data=folder data.root=/my/photos epochs=50       your own images and classes
  dat-train ... show_batch=true                                          look at one augmented batch first

The same command again continues the run where it stopped.""",
    "eval": """\
dat-eval ckpt=PATH [SETTING=VALUE ...]     evaluate a checkpoint on a validation set

  dat-eval ckpt=runs/dat_s-imagenet/checkpoints/best.pt                  as it was trained
  dat-eval ckpt=... img_size=384                                         at another resolution
  dat-eval model=dat_t data=imagenet data.root=/data/imagenet ckpt=dat_tiny_in1k_224.pth     released weights""",
}
_NOTES = {
    "train": """\
Results: RUNS_DIR/NAME/ with config.yaml, metrics.jsonl, summary.json, curves.png, checkpoints/last.pt and best.pt.
--cfg job            show the settings as they are composed, without running
--multirun           run every combination of several values, as in optim.lr=1e-3,2e-3 seed=0,1
--config-dir DIR     look for .yaml files of models, data, experiments ... in a folder of yours, too

Settings marked * may change when a run is continued. A model's own recipe may set others than the defaults
below (conf/recipe/).""",
    "eval": """\
Everything not said is as the checkpoint was trained. eval.resize: the authors resize to a square whatever the aspect
ratio ("squash") and then crop, which their numbers need; timm and torchvision resize the short side ("short_side").""",
}


def usage(command: str) -> str:
    """What to type, in a few lines."""
    return f"{_USAGE[command]}\n\ndat-{command} --help lists models, data and all settings."


def full(command: str) -> str:
    """All a user can say to `command`: examples, choices, settings with their defaults."""
    parts = [_USAGE[command], _NOTES[command]]
    for group in GROUPS[command]:
        rows = [(f"{group}={name}", _first_comment(conf_dir() / group / f"{name}.yaml")) for name in choices(group)]
        parts.append("\n".join(_row(left, right) for left, right in rows))
    return "\n\n".join([*parts, _settings(command)])


def _settings(command: str) -> str:
    import yaml

    defaults = flat(yaml.safe_load((conf_dir() / f"{command}.yaml").read_text()))
    lines = ["Settings (default):"]
    group = ""
    for item in settings(SCHEMAS[command]):
        prefix = item.key.rpartition(".")[0]
        if item.key.endswith(".name") and prefix:
            continue  # follows from the choice
        if prefix != group:
            lines.append("")
            group = prefix
        text = item.help
        if item.limit and "one of" in item.limit.text:
            text += f"; {item.limit.text.removeprefix('must be ')}"
        default = _shown(defaults.get(item.key, item.default))
        star = " *" if command == "train" and item.harmless else ""
        lines.append(_row(item.key + star, text + (f" ({default})" if default else "")))
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A default as a user would type it; "" where there is none, or it depends on the choices above."""
    if value in (None, MISSING, dataclasses.MISSING):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if scaled := re.fullmatch(r"\$\{linear_lr:(\S+?),\$\{batch_size\}\}", str(value)):
        return f"{scaled[1]} x batch_size / 1024"
    return re.sub(r"\$\{(.*?)\}", r"\1", str(value))


def _row(left: str, right: str) -> str:
    lines = textwrap.wrap(right, _WIDTH - 30) or [""]
    if len(left) > 26:
        return f"  {left}\n" + "\n".join(" " * 30 + line for line in lines)
    return "\n".join(f"  {left if i == 0 else '':<26}  {line}" for i, line in enumerate(lines))


def _first_comment(path: Path) -> str:
    """What a configuration file says of itself in its first comment."""
    for line in path.read_text().splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ")
    return ""
