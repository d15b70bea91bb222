"""What the network is told: text, reference image, speech."""
