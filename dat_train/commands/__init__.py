"""Implementation of the commands dat-train, dat-eval, dat-predict, ..., one module each: train, evaluate, predict, ...

*_dense: what segmentation and detection do otherwise. build_*: objects of a training run from its settings.
checkpoint_settings, trained, trained_dense: a trained model and its settings from a checkpoint.
evaluation_data, evaluating, output_folder, prediction_writers: parts that several commands use.
"""
