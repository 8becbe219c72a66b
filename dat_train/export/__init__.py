"""Export of a trained model: timm and Hugging Face hub folders, ONNX files, torch.export programs."""
