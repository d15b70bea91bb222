"""One sample over several GPUs: sequence-parallel attention and the split video autoencoder."""
