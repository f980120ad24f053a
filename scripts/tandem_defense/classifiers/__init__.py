"""Classifiers: from images in [0, 1] to logits, normalization and resizing inside."""
