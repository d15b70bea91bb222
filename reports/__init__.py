"""Presentation only: stored rows and published values in, tables, figures and a page out. Computes no score."""
