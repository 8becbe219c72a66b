"""Image data: reading, sample order, augmentation, loaders.

storages/, scenes/: annotated images of a run, for classification and for segmentation and detection.
generated/: data that need no download. reading/: files of images and the bytes in them; images decodes them.
dataset: samples of classification; augment, crops, fast_operations: their transforms; batch: a batch of samples.
order, micro_batches, loader: sample order, micro-batches of a process, worker processes. randomness: keyed draws.
mixing, erasing: mixup, cutmix and random erasing. fingerprint: difference of data between two starts of a run.
checking: faults of a data set, for dat-check.
"""
