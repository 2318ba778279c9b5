// Before anything is drawn: the theme that was chosen, so that the page does not flash in the other one. No module, because
// modules run after the first paint. What is stored may be anything, so it is only compared.
try {
  const theme = localStorage.getItem("llamakiln.theme");
  for (const known of ["light", "dark"]) if (theme === `"${known}"`) document.documentElement.dataset.theme = known;
} catch {
  // a browser that keeps nothing has no choice to keep
}
