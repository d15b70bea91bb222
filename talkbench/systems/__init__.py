"""Systems under test: folders of clips, and the known-answer systems that generate their own."""
