"""What the workflow adds to the package: configuration, demand, staleness, the stages."""
