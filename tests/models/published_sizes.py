"""Sizes of the published models."""

PUBLISHED = {  # parameters, and multiply-accumulates in G, at the model's own resolution
    "dat_tiny": (28_319_138, 4.59),
    "dat_small": (49_700_402, 9.01),
    "dat_base": (87_881_632, 15.79),
    "dat_base_384": (88_178_272, 49.77),
    "datpp_tiny": (23_962_876, 4.29),
    "datpp_small": (53_127_366, 9.43),
    "datpp_base": (93_690_640, 16.56),
    "datpp_base_384": (93_690_640, 49.73),
    "datp_tiny": (22_772_796, 4.05),
}
