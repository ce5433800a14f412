const root = document.documentElement;
const button = document.getElementById("theme");
button.hidden = false;
button.addEventListener("click", () => {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
});
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});

// What is wider than its box says so.
const boxes = document.querySelectorAll(".scroll, .panels");
const measure = (box) => box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
const sizes = new ResizeObserver((entries) => requestAnimationFrame(() => {
  for (const entry of entries) measure(entry.target);  // which resizes it: in the next frame
}));
for (const box of boxes) sizes.observe(box);

// The tip of a mark: at once, in the page's own letters, and on a touch too.
const tip = document.getElementById("tip");
const marked = (target) => target instanceof Element && target.closest("figure svg [data-tip]");
for (const title of document.querySelectorAll("figure svg title")) {
  title.parentElement.dataset.tip = title.textContent;
  title.remove();
}
const show = (event) => {
  const mark = marked(event.target);
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.dataset.tip;
  const across = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 18;
  const fits = below + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(8, across)}px`;
  tip.style.top = `${fits ? below : Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
};
addEventListener("pointermove", show);
addEventListener("pointerdown", show);
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });
