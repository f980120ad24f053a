"""Datasets: labeled images with stable ids, one class per source."""
