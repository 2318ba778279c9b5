// What is in view: the newest text, until the reader scrolls up, and again once back at the end; and the page above a
// telephone's keyboard. Knows nothing of what is shown.
import { byId } from "./dom.js";

const NEAR_PX = 8; // so near the end counts as at the end
const UP = ["ArrowUp", "PageUp", "Home"];
const main = byId("main");
const newest = byId("newest");

let isFollowing = true;
let isHeld = false; // by a finger
let lastTop = 0;

const gap = () => main.scrollHeight - main.scrollTop - main.clientHeight;

/** The document grew: show its end, if that is what the reader looks at. */
export function follow() {
  if (isFollowing && !isHeld) main.scrollTop = main.scrollHeight;
  newest.hidden = isFollowing || gap() < NEAR_PX;
}

/** Show the end from now on, wherever the reader was. */
export function followAgain() {
  isFollowing = true;
  follow();
}

const leave = () => (isFollowing = false);

main.addEventListener("scroll", () => {
  if (main.scrollTop < lastTop && gap() > 1) leave();
  else if (gap() < NEAR_PX) isFollowing = true;
  lastTop = main.scrollTop;
  newest.hidden = isFollowing || gap() < NEAR_PX;
});
main.addEventListener("wheel", (event) => event.deltaY < 0 && leave(), { passive: true });
main.addEventListener("keydown", (event) => UP.includes(event.key) && leave());
main.addEventListener("touchstart", () => (isHeld = true), { passive: true });
for (const end of ["touchend", "touchcancel"]) main.addEventListener(end, () => (isHeld = false), { passive: true });
new ResizeObserver(follow).observe(main);

// iOS lays its keyboard over the page and tells only visualViewport. Who magnified the page is left alone.
const seen = window.visualViewport;
seen?.addEventListener("resize", () => {
  if (seen.scale > 1.01) return;
  const isCovered = seen.height < window.innerHeight - 1;
  document.body.style.height = isCovered ? `${seen.height}px` : "";
  if (isCovered) scrollTo(0, 0);
});
