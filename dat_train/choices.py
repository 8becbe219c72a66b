"""Values that settings may take, shared by the command line, which must not import torch, and the other packages."""

CLASSIFIERS = ("classification", "multilabel")  # tasks whose model is a timm classifier of whole images
TASKS = (*CLASSIFIERS, "segmentation", "detection")
TEST_SETS = ("imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_real")  # for dat-eval only
CLASSIFICATION_KINDS = ("digits", "folder", "imagenet", "hf", "shards", "csv", "fake", *TEST_SETS)  # of data
SEGMENTATION_KINDS = ("ade20k", "masks", "digit_scenes", "nuclei")
DETECTION_KINDS = ("coco", "boxes", "digit_scenes", "nuclei")
RESIZE = ("short_side", "squash")  # of evaluation images
DECODERS = ("upernet", "semantic_fpn")
DETECTORS = ("retinanet", "mask_rcnn", "cascade_mask_rcnn")
DISTILLATION = ("soft", "hard")
LOSSES = ("cross_entropy", "bce")
SCHEDULES = ("cosine", "linear", "poly", "step", "multistep", "constant")
DTYPES = ("auto", "bf16", "fp16", "fp32", "fp64")
KERNELS = ("auto", "plain", "triton", "flex")
