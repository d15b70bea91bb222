// Before the first paint: a theme the reader chose on an earlier visit.
try {
  const theme = localStorage.getItem("talkbench-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Some browsers refuse storage to pages opened from disk; the system's theme it is.
}
