"""Our numbers against those of the official packages, each in an environment of its own."""
