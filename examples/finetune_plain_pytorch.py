"""Fine-tuning in plain PyTorch, without this project's trainer: odd and even digits.

python examples/finetune_plain_pytorch.py [weights: a checkpoint, safetensors, a released file]
"""

import sys

import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2

from dat_train.models import load_weights


def main(weights: str | None = None) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)  # (1797, 3, 8, 8)
    images = F.interpolate(images, size=16, mode="bicubic")
    labels = torch.tensor(digits.target % 2)
    train, held_out = slice(0, 1500), slice(1500, None)

    model = timm.create_model("dat_nano", num_classes=2, drop_path_rate=0.1)
    if weights:
        print(load_weights(model, weights))  # without the classifier, which has other classes
    # no weight decay for norms, biases and bias tables; smaller learning rates for earlier layers
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05, layer_decay=0.9)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = 24
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):  # warm-up and linear decay
            group["lr"] = rate * group.get("lr_scale", 1.0) * min(1, (step + 1) / 5, (steps - step) / 10)
        batch = torch.randint(0, 1500, (32,))
        loss = F.cross_entropy(model(images[train][batch]), labels[train][batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    model.eval()
    with torch.inference_mode():
        correct = model(images[held_out]).argmax(1) == labels[held_out]
    print(f"odd or even: accuracy {correct.float().mean():.1%} on {len(correct)} held-out digits")


if __name__ == "__main__":
    main(*sys.argv[1:2])
