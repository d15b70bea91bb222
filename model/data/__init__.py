"""Training data: from clips to shards of latents and features, and back as samples in a known order."""
