// The button for light and dark: the system's choice holds until it was pressed. first.js shows the choice at the next visit.
import { byId } from "./dom.js";
import { saveTheme } from "./store.js";

const root = document.documentElement;

byId("theme").addEventListener("click", () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  saveTheme(root.dataset.theme);
});
