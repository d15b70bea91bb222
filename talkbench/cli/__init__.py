"""The command line: thin over `talkbench.api`."""
