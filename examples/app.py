"""Web page for a trained model: upload of an image, prediction of its classes, picture of the sampling points.

pip install gradio
python examples/app.py runs/digits/checkpoints/best.pt
"""

import sys
import tempfile
from pathlib import Path

from dat_train.commands.load_trained import open_trained
from dat_train.viewer.attention import inspect_image
from dat_train.viewer.pictures import write_points


def predictor(ckpt: str):
    """Return a function: PIL image -> ({class: probability}, path of a picture of the sampling points)."""
    trained = open_trained(ckpt, device="cpu")
    data = trained.settings.data

    def predict(image):
        inspection = inspect_image(trained.model, trained.transform(image.convert("RGB")), data.mean, data.std)
        points, *_ = write_points(inspection, Path(tempfile.mkdtemp()))
        return {trained.classes[label]: probability for label, probability in inspection.top(5)}, str(points)

    return predict


def page(ckpt: str):
    import gradio as gr

    return gr.Interface(predictor(ckpt), gr.Image(type="pil"), [gr.Label(), gr.Image(type="filepath")], title="DAT")


if __name__ == "__main__":
    page(sys.argv[1]).launch()
