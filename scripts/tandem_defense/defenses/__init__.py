"""Defenses: restorations, trained preprocessors and two controls, each from images to images."""
