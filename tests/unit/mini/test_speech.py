"""The timeline, the sound it makes and the mouth it needs, and that the two agree in time."""

from itertools import pairwise

import numpy as np
import pytest

from talkbench.mini.identity import sample_identity
from talkbench.mini.phones import BILABIALS, OPEN_VOWELS, PAUSE, PHONES
from talkbench.mini.speech import Phone, sample_speech, synthesize, visemes

RATE = 16_000
FPS = 25.0


def middle(phone):
    return 0.5 * (phone.start_seconds + phone.end_seconds)


def rms(audio, start, end):
    part = audio[max(0, round(start * RATE)) : round(end * RATE)].astype(np.float64)
    return float(np.sqrt(np.mean(part**2))) if len(part) else 0.0


def envelope(audio, num_frames):
    """RMS in 40 ms windows centred on each frame's sampling time."""
    times = (np.arange(num_frames) + 0.5) / FPS
    return np.array([rms(audio, t - 0.02, t + 0.02) for t in times])


def best_lag(opening, loudness, reach=10):
    """Frames by which the sound follows the mouth."""
    a, b = opening - opening.mean(), loudness - loudness.mean()
    n = len(a)
    scores = [np.sum(a[max(0, -k) : n - max(0, k)] * b[max(0, k) : n - max(0, -k)]) for k in range(-reach, reach + 1)]
    return int(np.argmax(scores)) - reach


def clip(seed, seconds=5.0):
    speaker = sample_identity(seed)
    phones = sample_speech(seed, seconds, speaker)
    return phones, synthesize(phones, speaker, seconds), visemes(phones, round(seconds * FPS), FPS)


# --- timeline ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.3, 1.0, 5.0, 33.37])
def test_a_timeline_is_contiguous_and_silent_at_both_ends(seconds):
    phones = sample_speech(4, seconds, sample_identity(4))
    assert phones[0].start_seconds == 0.0
    assert phones[-1].end_seconds == seconds
    assert all(a.end_seconds == b.start_seconds for a, b in pairwise(phones))
    assert all(phone.end_seconds > phone.start_seconds for phone in phones)
    assert phones[0].symbol == phones[-1].symbol == PAUSE
    if seconds >= 1.0:
        assert phones[0].end_seconds == pytest.approx(0.2)
        assert 0.2 <= phones[-1].end_seconds - phones[-1].start_seconds < 0.6
        assert len(phones) > 3


def test_a_longer_timeline_starts_like_a_shorter_one():
    speaker = sample_identity(8)
    short, long = sample_speech(8, 5.0, speaker), sample_speech(8, 50.0, speaker)
    assert short[:-1] == long[: len(short) - 1]


def test_a_minute_of_speech_uses_most_of_the_inventory_and_another_seed_says_something_else():
    speaker = sample_identity(1)
    phones = sample_speech(1, 60.0, speaker)
    assert len({phone.symbol for phone in phones}) >= 28
    assert len(PHONES) >= 20
    other = sample_speech(2, 60.0, speaker)
    assert [p.symbol for p in phones[:20]] != [p.symbol for p in other[:20]]


def test_half_an_hour_never_repeats_itself():
    phones = sample_speech(3, 1800.0, sample_identity(3))
    words = [
        tuple((p.symbol, round(p.end_seconds - p.start_seconds, 3)) for p in phones[i : i + 6])
        for i in range(len(phones) - 6)
    ]
    assert len(words) > 10_000
    assert len(set(words)) == len(words)


def test_a_faster_speaker_says_more():
    slow, fast = sorted((sample_identity(seed) for seed in range(20)), key=lambda p: p.rate)[::19]
    assert len(sample_speech(5, 60.0, fast)) > len(sample_speech(5, 60.0, slow))


# --- mouth -------------------------------------------------------------------------------------------------------


def test_lips_are_closed_in_the_middle_of_bilabials_and_open_on_open_vowels():
    speaker = sample_identity(6)
    phones = sample_speech(6, 120.0, speaker)
    fine = visemes(phones, 120 * 1000, 1000.0).opening
    closed = [fine[round(middle(p) * 1000)] for p in phones if p.symbol in BILABIALS]
    opened = [fine[round(middle(p) * 1000)] for p in phones if p.symbol in OPEN_VOWELS]
    assert len(closed) > 50
    assert len(opened) > 50
    assert max(closed) == 0.0
    assert min(opened) > 0.5


def test_every_bilabial_closes_the_lips_in_at_least_one_frame_at_25_fps():
    for seed in range(8):
        speaker = sample_identity(seed)
        phones = sample_speech(seed, 30.0, speaker)
        opening = visemes(phones, 750, FPS).opening
        for phone in phones:
            if phone.symbol in BILABIALS:
                first, last = int(phone.start_seconds * FPS - 0.5), int(np.ceil(phone.end_seconds * FPS - 0.5))
                assert opening[max(first, 0) : last + 1].min() == 0.0


def test_a_frame_is_sampled_in_the_middle_of_its_interval():
    phones = sample_speech(9, 4.0, sample_identity(9))
    coarse, fine = visemes(phones, 100, 25.0), visemes(phones, 300, 75.0)
    for name in ("opening", "width", "rounding", "teeth", "tongue"):
        assert np.allclose(getattr(coarse, name), getattr(fine, name)[1::3], atol=1e-6)


def test_mouth_tracks_are_smooth_and_within_bounds():
    phones = sample_speech(10, 60.0, sample_identity(10))
    tracks = visemes(phones, 60_000, 1000.0)
    for name in ("opening", "width", "rounding", "teeth", "tongue"):
        track = getattr(tracks, name)
        assert track.dtype == np.float32
        assert track.min() >= 0.0
        assert track.max() <= 1.0
        assert np.abs(np.diff(track)).max() < 0.05
    assert tracks.opening.max() > 0.9


def test_different_vowels_give_different_mouths():
    shapes = {}
    for symbol in ("iy", "aa", "uw", "ao"):
        track = visemes([Phone(symbol, 0.0, 1.0)], 1, 1.0)
        shapes[symbol] = np.array([track.opening[0], track.width[0], track.rounding[0]])
    names = list(shapes)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert np.abs(shapes[a] - shapes[b]).max() > 0.3, (a, b)


# --- sound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "rate"), [(1.0, 16_000), (2.345678, 16_000), (0.25, 22_050), (1.51, 48_000)])
def test_the_sound_has_exactly_the_asked_length(seconds, rate):
    speaker = sample_identity(2)
    audio = synthesize(sample_speech(2, seconds, speaker), speaker, seconds, rate)
    assert audio.shape == (round(seconds * rate),)
    assert audio.dtype == np.float32


def test_the_same_seed_sounds_the_same_whatever_the_global_generator_does():
    np.random.seed(1)
    first = clip(11)[1]
    np.random.seed(2)
    assert first.tobytes() == clip(11)[1].tobytes()
    assert first.tobytes() != clip(12)[1].tobytes()


def test_the_sound_is_loud_enough_and_never_clips():
    for seed in range(6):
        audio = clip(seed)[1]
        assert 0.2 < np.abs(audio).max() < 0.97
        assert abs(audio.mean()) < 1e-3


def test_pauses_and_voiceless_lip_closures_are_silent():
    checked = 0
    for seed in range(6):
        phones, audio, _ = clip(seed, 8.0)
        loud = rms(audio, 0.0, 8.0)
        for phone in phones:
            if phone.symbol == PAUSE:
                assert rms(audio, phone.start_seconds + 0.08, phone.end_seconds - 0.04) < 1e-3 * loud
            if phone.symbol == "p":
                assert rms(audio, middle(phone) - 0.012, middle(phone) + 0.012) < 0.05 * loud
                checked += 1
    assert checked > 5


def test_murmurs_behind_closed_lips_are_much_softer_than_vowels():
    speaker = sample_identity(3)
    timeline = [Phone(PAUSE, 0.0, 0.2), Phone("aa", 0.2, 0.5), Phone("m", 0.5, 0.7), Phone("b", 0.7, 0.85)]
    timeline += [Phone("aa", 0.85, 1.1), Phone(PAUSE, 1.1, 1.3)]
    audio = synthesize(timeline, speaker, 1.3)
    vowel = rms(audio, 0.28, 0.42)
    assert rms(audio, 0.56, 0.64) < 0.25 * vowel
    assert rms(audio, 0.74, 0.80) < 0.15 * vowel


def spectrum_peak(audio, low, high):
    power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
    hz = np.fft.rfftfreq(len(audio), 1 / RATE)
    smooth = np.convolve(power, np.hanning(61), mode="same")
    band = (hz >= low) & (hz <= high)
    return hz[band][np.argmax(smooth[band])]


def test_vowels_have_their_formants_and_hisses_their_band():
    speaker = sample_identity(next(s for s in range(50) if sample_identity(s).f0_hz < 110))
    heard = {}
    for symbol in ("iy", "aa", "uw", "s", "sh"):
        audio = synthesize([Phone(symbol, 0.0, 1.0)], speaker, 1.0)[3200:12800]
        heard[symbol] = audio
    scale = speaker.formant_scale
    assert spectrum_peak(heard["aa"], 500, 900) == pytest.approx(730 * scale, rel=0.15)
    assert spectrum_peak(heard["aa"], 900, 1500) == pytest.approx(1090 * scale, rel=0.15)
    assert spectrum_peak(heard["iy"], 1500, 3000) == pytest.approx(2290 * scale, rel=0.1)
    assert spectrum_peak(heard["uw"], 600, 1300) == pytest.approx(870 * scale, rel=0.2)
    assert spectrum_peak(heard["s"], 500, 8000) > 5000
    assert 2200 < spectrum_peak(heard["sh"], 500, 8000) < 4500


def heard_pitch(audio):
    """Hz, from the shortest lag at which the sound nearly repeats."""
    audio = audio.astype(np.float64)
    correlation = np.correlate(audio[:2000], audio[:1000], mode="valid")
    first = RATE // 450
    return RATE / (first + np.argmax(correlation[first:] > 0.8 * correlation[first:].max()))


def test_the_voice_has_the_speakers_pitch():
    for seed in range(12):
        speaker = sample_identity(seed)
        audio = synthesize([Phone("aa", 0.0, 3.0)], speaker, 3.0)
        heard = [heard_pitch(audio[start : start + 2000]) for start in range(4000, 44000, 1000)]
        assert np.median(heard) == pytest.approx(speaker.f0_hz, rel=0.15)


# --- together ----------------------------------------------------------------------------------------------------


def test_sound_and_mouth_are_in_step_and_a_shift_moves_the_peak_by_as_much():
    in_step, shifted = [], []
    for seed in range(20):
        _, audio, mouth = clip(seed)
        in_step.append(best_lag(mouth.opening, envelope(audio, 125)) == 0)
        frames = (-6, -2, 3, 7)[seed % 4]
        late = np.roll(audio, round(frames * RATE / FPS))
        shifted.append(best_lag(mouth.opening, envelope(late, 125)) == frames)
    assert np.mean(in_step) >= 0.95
    assert np.mean(shifted) >= 0.95


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_mistakes_are_named():
    speaker = sample_identity(0)
    with pytest.raises(ValueError, match="duration_seconds is 0"):
        sample_speech(0, 0, speaker)
    with pytest.raises(ValueError, match="phones is empty"):
        visemes([], 5, 25.0)
    with pytest.raises(ValueError, match=r"frames 0\.\.-1"):
        visemes([Phone("aa", 0.0, 1.0)], -1, 25.0)
    with pytest.raises(ValueError, match="8000 Hz"):
        synthesize([Phone("aa", 0.0, 1.0)], speaker, 1.0, 8000)
