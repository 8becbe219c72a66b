"""A checkpoint that classifies digits, made in seconds: random features of a tiny model, and the best linear head."""

from pathlib import Path

import torch
from commands.small_checkpoint import write_small_checkpoint

from dat_train.commands.load_trained import open_trained
from dat_train.data.generated.digits import write_digits
from dat_train.data.storages.sources import open_datasets
from dat_train.models import Checkpoint
from dat_train.runtime.checkpoint_file import write_checkpoint

# one block a stage: window attention, then deformable
MODEL = "++model.args={dims:[8,16,16,24],depths:[1,1,1,1],heads:[1,2,2,3],groups:[1,2,1,3],blocks:[L,D,D,D]}"


def write_fitted_checkpoint(run: Path, *overrides: str) -> Path:
    """Write `run`/checkpoints/best.pt as a run of `experiment=digits` would; the digits are in `run`/digits."""
    write_digits(run / "digits", val_fraction=0.2, split_seed=0)
    path = write_small_checkpoint(
        run / "checkpoints" / "best.pt", f"data.root={run / 'digits'}", *overrides, model=MODEL
    )
    (run / "config.yaml").touch()
    trained = open_trained(path, device="cpu")
    train_set, _ = open_datasets("folder", run / "digits")
    images = torch.stack([trained.transform(train_set.read(index)) for index in range(len(train_set))])
    labels = torch.tensor([label for _, label in train_set.samples])
    with torch.inference_mode():
        features = torch.cat([trained.model.forward_head(trained.model.forward_features(part), pre_logits=True)
                              for part in images.split(256)]).double()  # fmt: skip
    mean = features.mean(0)
    centered, targets = features - mean, torch.nn.functional.one_hot(labels, 10).double() - 0.1
    ridge = 1e-3 * torch.eye(features.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(centered.T @ centered + ridge, centered.T @ targets).T * 10  # (10, C)
    content = Checkpoint.open(path).content
    content["model"]["head.fc.weight"] = weight.float()
    content["model"]["head.fc.bias"] = -(weight @ mean).float()
    write_checkpoint(content, path)
    return path
