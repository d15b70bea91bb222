"""The only place where means, intervals and tests are computed, always from per-clip rows."""
