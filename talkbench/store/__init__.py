"""Runs on disk: append-only rows, records, sessions; every file is whole or absent."""
