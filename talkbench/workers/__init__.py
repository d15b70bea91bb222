"""Systems that run in processes and environments of their own: protocol, child side, host."""
