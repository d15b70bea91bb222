"""Every word for a clip that was not made, with a sentence each: the failure taxonomy.

A failure has a *reason*, seen by the host. Where the worker said what went wrong (``error``), its message begins with a
*kind*; where its clip was refused (``bad-output``), the message ends with a *fault*, in brackets.
`baselines/README.md` prints the same words as tables.
"""

from __future__ import annotations

REASONS = {
    "no-handshake": "it never said hello, or ended before",
    "crashed": "it ended, or closed its stdout, while a job ran",
    "timeout": "the job, or the silence in it, took too long",
    "error": "it said that the job failed",
    "protocol": "it said something that is no message, or that makes no sense there",
    "bad-output": "it said done, but the clip cannot be accepted",
}

FAULTS = {
    "no-file": "it said done, but there is no file",
    "empty-file": "the file has no bytes",
    "unreadable": "the file cannot be read",
    "not-a-video": "no demuxer accepts the file",
    "no-video": "it has no picture track",
    "no-frames": "its first frame cannot be decoded",
    "corrupt": "decoding stops before its end",
    "truncated": "the file breaks off",
    "broken-timestamps": "the times in the file leap further than can be believed",
    "wrong-rate": "frames per second are not those the system states",
    "wrong-size": "its size changes, or is none of those that the system makes",
    "wrong-length": "its frames do not match the length of the sound",
    "wrong-count": "the timing events tell of another number of frames",
    "wrong-duration": "the times in the file do not match the number of its frames",
    "wrong-lead": "another number of frames was cut from its start than the system puts before the sound",
    "black": "too many frames are black",
    "blank": "too many frames are of one colour, as latents of zero decode to grey",
    "frozen": "all frames are the same",
    "repeated-tail": "it ends in one frame, repeated",
    "other-picture": "its first frame is not the reference picture",
    "no-face": "too few frames show a face, though the reference picture does",
    "face-size": "the face is far larger or smaller than in the reference picture",
    "no-sound": "it has no sound track, or a silent one",
    "sound-shifted": "its sound is not where the benchmark's is",
    "re-levelled": "its sound has another loudness than the benchmark's",
}

KINDS = {
    "oom-gpu": "the GPU's memory was not enough",
    "oom-host": "the machine's memory was not enough",
    "disk-full": "the disk was full",
    "no-gpu": "it found no GPU that it can use",
    "port-taken": "another process listens on the port that it wants",
    "nccl": "its processes lost each other",
    "missing-weight": "a weight file is not where it looks",
    "missing-module": "a Python module is not installed",
    "ffmpeg": "ffmpeg failed, or is not there",
    "no-face": "it found no face in the reference picture",
    "wrong-engine": "its TensorRT engines were built for another GPU",
    "audio-too-short": "the sound is shorter than it can take",
    "no-output": "exit code 0, but the file that should be there is not",
    "several-outputs": "more files match than the one that should be there",
    "unreadable": "its file cannot be opened",
    "wrong-size": "its file has another size than was asked for",
    "too-few-frames": "nothing is left of its file after cutting what is not the benchmark's",
    "refused": "the job is one that the system would misunderstand; it was not started",
    "killed": "a signal ended it",
    "exit": "it ended with an exit code that nothing explains",
}
"""What `baselines/common.py` tells apart; an adapter of one's own may say anything."""
