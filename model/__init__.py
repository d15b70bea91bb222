"""SoulX-LiveTalk (released as SoulX-FlashTalk, "14B"): audio in, talking-avatar video out, without end."""

PACKAGE = __name__
"""Under which Python finds it: `model` in a checkout, `talkbench_model` once installed."""
