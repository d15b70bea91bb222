"""The synthetic tier: drawn talking avatars with sound, whose truth is known exactly.

Everything here is a pure function of seeds and sizes. A person and a scene come from `identity`, a phoneme
timeline with its sound and mouth shapes from `speech`, and frames from `scene`:

    identity = sample_identity(7)
    phones = sample_speech(7, 5.0, identity)
    audio_N = synthesize(phones, identity, 5.0)
    shapes = visemes(phones, num_frames=125, frame_rate=25.0)
    frames = render(identity, shapes, height=256, width=256, frame_rate=25.0, seed=7)

The names live in their modules, so that importing this package loads neither scipy nor Pillow.
"""
