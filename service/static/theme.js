// Light and dark: the system's choice until the button chose.
import { byId } from "./dom.js";
import { loadTheme, saveTheme } from "./store.js";

const root = document.documentElement;
const kept = loadTheme();
if (kept === "light" || kept === "dark") root.dataset.theme = kept;

byId("theme").addEventListener("click", () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  saveTheme(root.dataset.theme);
});
