"""Help for people, made from conf/ and the schema, without importing Hydra or torch."""

import dataclasses
import re
import textwrap
from pathlib import Path
from typing import Any

from dat_train.commands.cli import choices, conf_dir
from dat_train.config import SCHEMAS, settings

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
--multirun runs every combination of comma-separated values (optim.lr=1e-3,2e-3); --cfg job shows the settings
without running; --config-dir DIR adds your own .yaml files. Results: RUNS_DIR/NAME/ (config.yaml, metrics.jsonl,
summary.json, curves.png, checkpoints/last.pt and best.pt).""",
    "eval": """\
Everything not said is as the checkpoint was trained. eval.resize: the authors resize to a square whatever the aspect
ratio ("squash") and then crop, which their numbers need; timm and torchvision resize the short side ("short_side").""",
}
_GROUPS = {"train": ("model", "data", "augment", "experiment"), "eval": ("model", "data")}


def usage(command: str) -> str:
    """What to type, in a few lines."""
    return f"{_USAGE[command]}\n\ndat-{command} --help lists models, data and all settings."


def full(command: str) -> str:
    """All a user can say to `command`: examples, choices, settings with their defaults."""
    parts = [_USAGE[command], _NOTES[command]]
    for group in _GROUPS[command]:
        rows = [(f"{group}={name}", _first_comment(conf_dir() / group / f"{name}.yaml")) for name in choices(group)]
        parts.append("\n".join(_row(left, right) for left, right in rows))
    return "\n\n".join([*parts, _settings(command)])


def _settings(command: str) -> str:
    defaults = _defaults(command)
    lines = ["Settings (default):"]
    group = ""
    for item in settings(SCHEMAS[command]):
        prefix = item.key.rpartition(".")[0]
        if item.key.endswith(".name") and prefix:
            continue  # follows from the choice
        if prefix != group:
            lines.append("")
            group = prefix
        default = defaults.get(item.key, _shown(item.default))
        default = f" ({default})" if default else ""
        lines.append(_row(item.key, item.help + default))
    return "\n".join(lines)


def _defaults(command: str) -> dict[str, str]:
    """Settings' values as they stand in conf/NAME.yaml, by dotted key."""
    import yaml

    content = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())
    values: dict[str, str] = {}

    def collect(node: dict[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                collect(value, f"{prefix}{key}.")
            elif key != "defaults":
                values[prefix + key] = _shown(value)

    collect(content, "")
    return values


def _shown(value: Any) -> str:
    """A default as a user would type it; "" where there is none or it depends on the choices above."""
    if value is dataclasses.MISSING:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if value == "???":
        return ""
    scaled = re.fullmatch(r"\$\{linear_lr:(\S+?),\$\{batch_size\}\}", str(value))
    if scaled:
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
