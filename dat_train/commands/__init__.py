"""Implementation of the commands dat-train, dat-eval, dat-predict, ..., one module each: train, evaluate, predict, ...

build_*: objects of a training run from its settings. saved_settings, load_trained: settings and model of a checkpoint.
evaluation_run, scene_prediction, output_folder, prediction_writers, recipe_topics: parts of one or several commands.
"""
