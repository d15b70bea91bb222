"""What the two training stages compute, and how it is spread over GPUs, saved and watched; `train.py` runs it."""
