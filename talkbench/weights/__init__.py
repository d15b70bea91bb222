"""Official weight files: what they are (`catalog.yaml`), where they lie (`store`), how they are read (`read`)."""
