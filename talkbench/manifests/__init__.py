"""Suites: what systems are asked to generate, as versioned data."""
