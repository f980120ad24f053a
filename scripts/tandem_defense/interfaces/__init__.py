"""Defenses in the tools that their users already have; docs/interfaces.md shows each."""
