"""Image data: reading, sample order, augmentation, loaders. A path through the folder, outermost modules first:

sources, segmentation_sources, coco: the sets of a run by data.kind; splits: training and validation set of a storage.
folders, archives, hugging_face, csv_table, imagenet: storages. Each gives a catalog: class names and labelled images.
image_source, archive_source: bytes of an image in a storage; images and crops decode them.
dataset, segmentation_dataset, detection_dataset: samples, through augment or dense_transforms; batch: a batch of them.
order, loader: which sample comes when, and the worker processes; mixing and erasing: draws for a whole batch.
digits, digit_scenes, nuclei, fake: data that need no download.
"""
