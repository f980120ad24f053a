"""Who attacks what: the bare classifier, or the defended one, and how it gets its gradients."""
