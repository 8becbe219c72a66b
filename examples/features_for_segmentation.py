"""Semantic segmentation with a Deformable Attention Transformer as encoder of segmentation_models_pytorch's U-Net.

pip install segmentation-models-pytorch
python examples/features_for_segmentation.py [dat_tiny]
"""

import sys

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torchvision.transforms.functional import to_tensor

import dat_train.models  # noqa: F401  registers the models


def main(name: str) -> None:
    torch.manual_seed(0)
    # "tu-NAME" is the model NAME of timm. To load weights: dat_train.models.load_weights(model.encoder.model, PATH)
    # encoder_depth=4 ends at stride 16, the last stage of dat_nano; 5 ends at stride 32, the last stage of other models
    depth = 4 if name == "dat_nano" else 5
    channels = (128, 64, 32, 16, 16)[-depth:]
    model = smp.Unet(f"tu-{name}", depth, encoder_weights=None, decoder_channels=channels, classes=2)

    photo = to_tensor(load_sample_image("flower.jpg").copy())[None, :, :384:3, 100:484:3]  # (1, 3, 128, 128)
    red = (photo[:, 0] > photo[:, 1] + 0.2).long()  # (1, 128, 128) mask of the flower: red pixels
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(6):
        logits = model(photo)  # (1, classes, 128, 128)
        loss = F.cross_entropy(logits, red)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            print(f"step {step}   loss {loss.item():.3f}")
    for x in model.encoder(photo):
        print(f"stride {photo.shape[-1] // x.shape[-1]}, {tuple(x.shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["dat_nano"])
