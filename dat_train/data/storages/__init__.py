"""Storages of labeled images, for classification. Each storage returns a catalog: class names and samples.

sources: the training and validation set of a run by `data.kind`; splits: training and validation part of a storage.
folders, archives, hugging_face, csv_table: storages. imagenet_labels: labels of ImageNet's flat validation images.
imagenet_tests: ImageNet-V2, -A, -R, -Sketch, -ReaL. catalog: classes and samples of a storage.
class_names: matching of classes by name. split_names: "train", "val", ...
"""
