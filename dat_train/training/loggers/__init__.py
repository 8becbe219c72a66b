"""Loggers (TensorBoard, W&B, MLflow): they receive the rows of metrics.jsonl and pictures, and cannot end a run."""
