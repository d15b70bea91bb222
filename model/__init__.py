"""SoulX-LiveTalk (released as SoulX-FlashTalk, "14B"): audio in, talking-avatar video out, without end."""
