"""Files to arrays and back: the only place where pixels and samples are made."""
