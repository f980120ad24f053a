"""Deep image priors: the two networks and the engine that fits many images at once."""
