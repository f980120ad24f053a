"""Adversarial attacks on Foolbox's interface, batched and independent of batch mates."""
