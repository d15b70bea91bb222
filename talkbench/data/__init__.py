"""Building TalkBench: index, select, fetch, render and verify, each a function of pinned inputs."""
