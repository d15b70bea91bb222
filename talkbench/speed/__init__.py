"""What a speed number means: scenarios with warm-up, minimum counts and clocks, as data."""
