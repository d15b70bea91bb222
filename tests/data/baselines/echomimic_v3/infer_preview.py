"""Imitates EchoMimic-V3 preview: settings in a class, inputs by name, 4k+1 frames."""

from pathlib import Path

import fake


class Config:
    def __init__(self):
        self.model_name = self.transformer_path = self.wav2vec_model_dir = ""
        self.base_dir, self.test_name_list, self.save_path = "datasets/echomimicv3_demos/", ["guitar.png"], "outputs"
        self.num_inference_steps, self.guidance_scale, self.audio_guidance_scale = 25, 4, 2.9
        self.partial_video_length, self.overlap_video_length, self.use_longvideo_cfg = 113, 8, False
        self.sample_size, self.seed, self.fps, self.enable_teacache = [768, 768], 43, 25, False
        if "other-commit" in fake.WORDS:
            del self.overlap_video_length


def main():
    config = Config()
    fake.is_file(config.model_name, config.transformer_path, config.wav2vec_model_dir)
    fake.begin()
    folder = Path(config.save_path) / "20251230_120000_gs4_ags2.9"
    for name in config.test_name_list:
        image, audio = Path(config.base_dir, "imgs", f"{name}.png"), Path(config.base_dir, "audios", f"{name}.wav")
        fake.is_file(image, audio, Path(config.base_dir, "prompts", f"{name}.txt"))
        folder.mkdir(parents=True, exist_ok=True)
        frames = int(25 * fake.seconds(audio)) // 4 * 4 + 1
        for _ in range(0, frames, 105):
            fake.bar(config.num_inference_steps)
        fake.clip(folder / f"{name}_audio.mp4", frames, (256, 256), image=image, audio=audio)


if __name__ == "__main__":
    main()
