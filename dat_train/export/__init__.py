"""A trained model in the forms others load: timm and the Hugging Face hub, ONNX, torch.export."""
