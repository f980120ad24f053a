"""Every file between jobs: written whole, checked when read."""
