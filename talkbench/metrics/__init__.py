"""Metric runners: streamed over one decode, pure in their parameters, silent about files and folders."""
