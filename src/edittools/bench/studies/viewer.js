// ---------------------------------------------------------------- looking: source, difference, flicker, zoom

let look = "own";   // what stands in the place of each edited image: own, source, difference, flicker
let beat = null, phase = false;  // of the flicker
let view = null;    // of the viewer: {at, zoom}

function shownImages() {  // [letter or null, name, uri] in the order of the page, the sources first
  const sources = page.data.source ? [page.data.source, ...(page.data.references || [])] : [];
  const named = (uri, at) => [null, sources.length > 1 ? `source ${at + 1}` : "source", uri];
  return [...sources.map(named), ...page.shown.flatMap((letter, at) => ownImages(letter).map((uri, turn, all) =>
    [letter, all.length > 1 ? `${nameOf(at)}, turn ${turn + 1}` : nameOf(at), uri]))];
}

function setLook(wanted) {
  look = page && page.data.source ? wanted : "own";
  clearInterval(beat);
  phase = look === "flicker";
  beat = look === "flicker" ? setInterval(() => { phase = !phase; paint(); }, 500) : null;
  for (const button of document.querySelectorAll(".look"))
    button.setAttribute("aria-pressed", button.dataset.look === look);
  paint();
}

function paint() {  // every edited image as `look` says, in the cards and in the viewer
  if (!page) return;
  for (const image of document.querySelectorAll("img[data-own]")) paintOne(image);
}

function paintOne(image) {
  const own = image.dataset.own, source = page.data.source;
  image.src = look === "source" || (look === "flicker" && phase) ? source : own;
  const frame = image.parentElement;
  frame.querySelector(".over")?.remove();
  frame.classList.toggle("difference", look === "difference");
  if (look === "difference") frame.append(make("img", {className: "over", src: source, alt: ""}));
}

function edited(uri, alt) {  // an image that `look` changes, in a frame of its own
  const image = make("img", {src: uri, alt});
  image.dataset.own = uri;
  return make("span", {className: "frame"}, image);
}

function openViewer(at) {
  view = {at, zoom: 1};
  element("viewer").showModal();
  showView();
  element("stage").focus();
}

function showView() {
  const images = shownImages();
  view.at = (view.at + images.length) % images.length;
  const [letter, name, uri] = images[view.at];
  element("seen").textContent = name;
  const framed = letter === null ? make("span", {className: "frame"}, make("img", {src: uri, alt: name})) : edited(uri, name);
  framed.classList.toggle("tiny", page.data.tiny);
  element("stage").replaceChildren(framed);
  if (letter !== null) paintOne(framed.firstChild);
  zoomTo(view.zoom);
}

function zoomTo(zoom) {  // 1 fills the stage; what is in its middle stays there
  const stage = element("stage"), [frame] = stage.children, image = frame.firstChild;
  const middle = [(stage.scrollLeft + stage.clientWidth / 2) / stage.scrollWidth, (stage.scrollTop + stage.clientHeight / 2) / stage.scrollHeight];
  view.zoom = Math.min(16, Math.max(1, zoom));
  const size = () => {
    const fit = Math.min(stage.clientWidth / image.naturalWidth, stage.clientHeight / image.naturalHeight);
    frame.style.width = `${Math.floor(image.naturalWidth * fit * view.zoom)}px`;
    frame.style.height = `${Math.floor(image.naturalHeight * fit * view.zoom)}px`;
    stage.scrollTo(middle[0] * stage.scrollWidth - stage.clientWidth / 2, middle[1] * stage.scrollHeight - stage.clientHeight / 2);
  };
  if (image.naturalWidth) size(); else image.onload = size;
}

const LOOKS = {s: "source", d: "difference", f: "flicker"};

function lookKey(event, down) {  // s and d as long as they are held, f until it is pressed again
  const wanted = event.key === " " ? "source" : LOOKS[event.key.toLowerCase()];
  if (!wanted || (event.key === " " && event.target.closest("button"))) return false;
  if (wanted === "flicker") { if (down && !event.repeat) setLook(look === "flicker" ? "own" : "flicker"); }
  else if (down && look !== wanted) setLook(wanted);
  else if (!down && look === wanted) setLook("own");
  return true;
}

for (const button of document.querySelectorAll(".look"))
  button.addEventListener("click", () => setLook(look === button.dataset.look ? "own" : button.dataset.look));
for (const button of document.querySelectorAll("[data-step]"))
  button.addEventListener("click", () => { view.at += Number(button.dataset.step); showView(); });
for (const button of document.querySelectorAll("[data-zoom]"))
  button.addEventListener("click", () => zoomTo(view.zoom * 2 ** Number(button.dataset.zoom)));
element("close").addEventListener("click", () => element("viewer").close());
element("viewer").addEventListener("close", () => { setLook("own"); element("stage").replaceChildren(); element("said").focus({preventScroll: true}); });
element("viewer").addEventListener("keydown", (event) => {
  event.stopPropagation();
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (lookKey(event, true)) event.preventDefault();
  else if (event.key === "+" || event.key === "=") zoomTo(view.zoom * 2);
  else if (event.key === "-") zoomTo(view.zoom / 2);
  else if (view.zoom === 1 && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    view.at += event.key === "ArrowLeft" ? -1 : 1;
    showView();
  }
});
element("viewer").addEventListener("keyup", (event) => { event.stopPropagation(); lookKey(event, false); });
element("stage").addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoomTo(view.zoom * 2 ** (-event.deltaY / 100));
}, {passive: false});
element("stage").addEventListener("dblclick", () => zoomTo(view.zoom > 1 ? 1 : 4));
element("stage").addEventListener("pointerdown", (event) => {  // a mouse drags; fingers scroll by themselves
  if (event.pointerType !== "mouse") return;
  const stage = element("stage"), from = [event.clientX + stage.scrollLeft, event.clientY + stage.scrollTop];
  event.preventDefault();
  stage.focus();
  stage.setPointerCapture(event.pointerId);
  stage.onpointermove = (moved) => stage.scrollTo(from[0] - moved.clientX, from[1] - moved.clientY);
  stage.onpointerup = stage.onpointercancel = () => { stage.onpointermove = null; };
});
