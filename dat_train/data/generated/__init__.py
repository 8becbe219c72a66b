"""Data that need no download: digits of scikit-learn, scenes of digits, nuclei of stardist, random images."""
