// Several videos played as one: the same time, one sound, one transport. Knows nothing of the page around it.

const CLOSE_SECONDS = 0.008; // closer than this is together
const CATCH_UP_SECONDS = 0.25; // a player that is apart changes its speed so as to be together again after this time
const LOST_SECONDS = 0.5; // further apart than this: all start anew from the leader's time
const CHECK_MS = 100;
const STARVED_MS = 300;
const PATIENCE_MS = 4000;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

class Players extends EventTarget {
  /**
   * Events: `time` whenever the common time moves, `state` when playing, sound, rate or loop change.
   *
   * @param tracks {video, seconds, frameRate}: a video element, and what the run knows about its file.
   */
  constructor(tracks) {
    super();
    this.tracks = tracks.map((track) => ({ ...track, failed: false, starvedAt: null }));
    this.playing = false; // what the reader asked for
    this.waiting = false; // asked for, but somebody is not ready
    this.loop = false;
    this.rate = 1;
    this.sound = null;
    this.wanted = 0; // the common time unless the videos are rolling
    this.rolling = false;
    this.turn = 0; // a newer start makes older ones give up
    for (const track of this.tracks) {
      track.video.addEventListener("error", () => this.#fail(track));
      track.video.addEventListener("seeked", () => this.#land(track));
    }
    this.timer = setInterval(() => this.#check(), 200); // goes on where animation frames do not
    this.#frame();
  }

  get seconds() {
    return Math.max(0, ...this.tracks.map((track) => this.#end(track)));
  }

  get time() {
    const leader = this.rolling ? this.#leader() : null;
    return leader ? leader.video.currentTime : this.wanted;
  }

  /** Frame rate that frame steps follow: of the sound's clip, else of the fastest one. */
  get frameRate() {
    return this.tracks[this.sound]?.frameRate ?? Math.max(1, ...this.tracks.map((track) => track.frameRate || 0));
  }

  play() {
    if (this.playing || !this.tracks.length) return;
    if (this.wanted >= this.seconds - 0.02) this.seek(0);
    this.playing = true;
    this.#start();
  }

  pause() {
    this.wanted = this.time;
    this.playing = this.waiting = false;
    this.#stop();
    this.#placeAll(0.5 / this.frameRate);
    this.#tell("state");
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  seek(seconds) {
    this.wanted = Math.min(this.seconds, Math.max(0, seconds));
    const goOn = this.playing;
    this.#stop();
    this.#placeAll(0);
    this.#tell("time");
    if (goOn) this.#start();
  }

  /** Go to the middle of a neighbouring frame, so that rounding cannot show another one. */
  step(frames) {
    if (this.playing) this.pause();
    const frame = Math.floor(this.time * this.frameRate + 1e-3) + frames;
    this.seek((Math.max(0, frame) + 0.5) / this.frameRate);
  }

  setRate(rate) {
    this.rate = rate;
    for (const { video } of this.tracks) video.playbackRate = rate;
    this.#tell("state");
  }

  setLoop(loop) {
    this.loop = loop;
    this.#tell("state");
  }

  /** Let one track be heard; null for none. */
  setSound(position) {
    this.sound = this.tracks[position] ? position : null;
    this.tracks.forEach(({ video }, i) => (video.muted = i !== this.sound));
    this.#tell("state");
  }

  /** Stop and let go of the files. */
  destroy() {
    this.turn++;
    this.playing = this.rolling = false;
    clearInterval(this.timer);
    cancelAnimationFrame(this.request);
    for (const { video } of this.tracks) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
    this.tracks = [];
  }

  #tell(name) {
    this.dispatchEvent(new Event(name));
  }

  #end({ video, seconds, failed }) {
    if (failed) return 0;
    return Number.isFinite(video.duration) ? video.duration : (seconds ?? 0);
  }

  /** Last time at which a track has a picture. */
  #last(track) {
    return Math.max(0, this.#end(track) - 0.5 / (track.frameRate || 25));
  }

  #isOver(track, at = this.time) {
    return track.failed || track.video.ended || at >= this.#end(track) - 1e-3;
  }

  /** Whom the others follow: the one that is heard, since sound must not stutter; else the longest. */
  #leader() {
    const going = this.tracks.filter((track) => !track.failed && !track.video.ended && !track.video.paused);
    const heard = this.tracks[this.sound];
    if (going.includes(heard)) return heard;
    return going.sort((a, b) => this.#end(b) - this.#end(a))[0] ?? null;
  }

  #placeAll(tolerance) {
    for (const track of this.tracks) {
      const target = Math.min(this.wanted, this.#last(track));
      if (Math.abs(track.video.currentTime - target) > tolerance) this.#place(track, target);
    }
  }

  #place(track, target) {
    if (track.failed) return;
    if (track.video.seeking) {
      track.next = target; // one seek at a time: while dragging, only the newest place counts
      return;
    }
    track.video.preload = "auto";
    track.video.currentTime = target;
  }

  #land(track) {
    if (track.next === undefined) return;
    const target = track.next;
    track.next = undefined;
    this.#place(track, target);
  }

  #fail(track) {
    if (!track.video.getAttribute("src")) return;
    track.failed = true;
    this.#tell("state");
  }

  #stop() {
    this.turn++;
    this.rolling = false;
    for (const { video } of this.tracks) video.pause();
  }

  /** Start everybody together: nobody rolls before all have a picture. */
  async #start() {
    const turn = ++this.turn;
    const isReady = ({ video, failed, next }) => failed || (!video.seeking && next === undefined && video.readyState >= 3);
    const taking = this.tracks.filter((track) => !this.#isOver(track, this.wanted));
    for (const { video } of taking) video.preload = "auto";
    const since = performance.now();
    while (!taking.every(isReady) && performance.now() - since < PATIENCE_MS) {
      this.waiting = performance.now() - since > 150;
      if (this.waiting) this.#tell("state");
      await sleep(10);
      if (turn !== this.turn) return;
    }
    this.waiting = false;
    const starts = taking.map(({ video }) => {
      video.playbackRate = this.rate;
      return video.play();
    });
    this.rolling = true;
    this.#tell("state");
    const results = await Promise.allSettled(starts);
    if (turn === this.turn && results.some(({ reason }) => reason?.name === "NotAllowedError")) this.#playMuted(taking);
  }

  /** Without a press the browser allows no sound. */
  #playMuted(taking) {
    this.setSound(null);
    for (const { video } of taking) video.play().catch(() => {});
  }

  #frame() {
    this.request = requestAnimationFrame(() => {
      if (this.rolling) {
        this.#tell("time");
        this.#check();
      }
      this.#frame();
    });
  }

  #check() {
    const now = performance.now();
    if (!this.rolling || now - (this.checkedAt ?? 0) < CHECK_MS) return;
    this.checkedAt = now;
    const leader = this.#leader();
    if (!leader) {
      if (this.tracks.every((track) => this.#isOver(track) || track.video.ended)) this.#finish();
      return;
    }
    const time = leader.video.currentTime;
    this.wanted = time;
    for (const track of this.tracks) {
      if (track === leader) track.video.playbackRate = this.rate;
      else if (!this.#isOver(track, time)) this.#follow(track, time);
    }
    this.#restartIfLost(now);
  }

  /**
   * Bring one player back by its speed. Setting its time would be a seek from the last key frame, which takes longer
   * than the gap it is to close; the followers are muted, so a few per cent are neither heard nor seen.
   */
  #follow({ video }, time) {
    const behind = (time - video.currentTime) / this.rate;
    const pull = Math.abs(behind) < CLOSE_SECONDS ? 0 : Math.min(0.5, Math.max(-0.5, behind / CATCH_UP_SECONDS));
    video.playbackRate = this.rate * (1 + pull);
  }

  /** If somebody has run out of data, or is far away, all wait for him. */
  #restartIfLost(now) {
    for (const track of this.tracks) {
      const { video } = track;
      const far = Math.abs(video.currentTime - this.wanted) > LOST_SECONDS * Math.max(1, this.rate);
      const lost = !this.#isOver(track, this.wanted) && (video.readyState < 3 || video.paused || far);
      track.starvedAt = lost ? (track.starvedAt ?? now) : null;
    }
    if (!this.tracks.some((track) => track.starvedAt !== null && now - track.starvedAt > STARVED_MS)) return;
    for (const track of this.tracks) track.starvedAt = null;
    this.#stop();
    this.#placeAll(0.5 / this.frameRate);
    this.#start();
  }

  #finish() {
    if (this.loop) {
      this.seek(0);
      return;
    }
    this.wanted = this.seconds;
    this.playing = false;
    this.#stop();
    this.#tell("time");
    this.#tell("state");
  }
}
