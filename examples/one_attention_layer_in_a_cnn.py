"""Deformable attention as one layer of a convolutional network.

python examples/one_attention_layer_in_a_cnn.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dat_train.models import DeformableAttention, record_sampling


class Net(nn.Module):
    """Digits (B, 1, 8, 8) -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.norm = nn.LayerNorm(32)
        self.attention = DeformableAttention(dim=32, num_heads=4, groups=2, size=(8, 8), kernel_size=3, stride=2)
        self.head = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)  # attention takes (B, H, W, C)
        x = x + self.attention(self.norm(x))
        return self.classifier(self.head(x.permute(0, 3, 1, 2)))


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(50):
        batch = torch.randint(0, 1500, (64,))
        loss = F.cross_entropy(net(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    net.eval()
    with torch.inference_mode(), record_sampling(net) as layers:
        correct = net(images[1500:]).argmax(1) == labels[1500:]
    offset = (layers["attention"].positions - layers["attention"].reference).abs().mean() * 8 / 2
    print(f"accuracy {correct.float().mean():.1%} on {len(correct)} held-out digits; mean offset {offset:.2f} pixels")


if __name__ == "__main__":
    main()
