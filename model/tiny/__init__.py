"""A world small enough to train everything on two CPU cores: drawn people at 64x64 whose mouths follow their speech."""
