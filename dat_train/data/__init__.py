"""Image data: reading, sample order, augmentation, loaders. A path through the folder:

storages/, scenes/: annotated images of a run, for classification and for segmentation and detection.
generated/: data that need no download. reading/: files of images and the bytes in them; images decodes them.
dataset: samples of classification, through augment with crops and fast_operations; batch: a batch of samples.
order, loader: which sample comes when, and the worker processes. randomness: keyed draws.
mixing, erasing: mixup, cutmix and random erasing. fingerprint: difference of data between two starts of a run.
checking: faults of data, for dat-check.
"""
