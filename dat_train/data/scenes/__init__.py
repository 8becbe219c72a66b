"""Scenes: images with a mask or boxes, for dense prediction (segmentation and detection).

segmentation_sources, coco: annotations by `data.kind`; segmentation_dataset, detection_dataset: samples of them.
dense_transforms: augmentation of an image with its mask or boxes. scene_checking, coco_checks: faults of the data.
"""
