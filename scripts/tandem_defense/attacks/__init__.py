"""Adversarial attacks, batched and independent of batch mates: our own searches, and Foolbox's."""
