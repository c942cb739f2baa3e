const read = (id) => JSON.parse(document.getElementById(id).textContent);
const element = (id) => document.getElementById(id);
const study = read("study");
const server = element("server") ? read("server") : null;  // {assigned} where the page came from a server
const dimensions = study.dimensions.map((dimension) => dimension.name);
const tab = Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16)).join("");
let database, rater = null, order = [], position = 0, cursor = 0, unsaved = 0, lost = false, left = 0;
let answers = {};  // case -> {given: {letter: {dimension: level}}, shown: [letter], at, first, reason, instruction}; `first`: when it was complete
let page = null;   // the case on screen: {number, data, shown, cells, images}

// ---------------------------------------------------------------- order: the same for a rater, whenever they come

function generator(text) {  // FNV-1a into mulberry32: not for secrets, only for an order that nobody chose
  let state = 2166136261;
  for (const byte of new TextEncoder().encode(text)) state = Math.imul(state ^ byte, 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(items, text) {
  const random = generator(text), mixed = [...items];
  for (let last = mixed.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
  }
  return mixed;
}

// ---------------------------------------------------------------- storage: on the disk before it is called saved

class OtherTab extends Error {}  // the rater has gone on in another tab

function wish(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function openDatabase() {
  const request = indexedDB.open("edittools-study", 2);
  request.onupgradeneeded = () => {
    const stores = {answers: ["study", "rater", "case"], raters: "study", tabs: ["study", "rater"]};
    for (const [name, keyPath] of Object.entries(stores))
      if (!request.result.objectStoreNames.contains(name)) request.result.createObjectStore(name, {keyPath});
  };
  return wish(request);
}

function transaction(stores, work) {  // work(transaction, fail): all of it or nothing, and then it is on the disk
  return new Promise((resolve, reject) => {
    const all = database.transaction(stores, "readwrite", {durability: "strict"});
    let why;
    all.oncomplete = resolve;
    all.onabort = all.onerror = () => reject(why || all.error);
    work(all, (error) => { why = error; all.abort(); });
  });
}

const local = {  // this browser
  async open() {
    database = await openDatabase();
    const last = await wish(database.transaction("raters").objectStore("raters").get(study.study));
    return last && last.rater;
  },
  async begin(name) {
    if (!database) return {};
    const found = {};
    const range = IDBKeyRange.bound([study.study, name, -1], [study.study, name, study.cases]);
    for (const {case: number, study: _, rater: __, ...answer} of await wish(database.transaction("answers").objectStore("answers").getAll(range)))
      found[number] = answer;
    await transaction(["raters", "tabs"], (all) => {
      all.objectStore("raters").put({study: study.study, rater: name});
      all.objectStore("tabs").put({study: study.study, rater: name, tab});
    });
    return found;
  },
  save(number, answer) {
    return transaction(["tabs", "answers"], (all, fail) => {
      all.objectStore("tabs").get([study.study, rater]).onsuccess = ({target: {result: open}}) => {
        if (open && open.tab !== tab) fail(new OtherTab());
        else all.objectStore("answers").put({study: study.study, rater, case: number, ...answer});
      };
    });
  },
  load: (number) => read(`case-${number}`),
};

const remote = {  // the server that the page came from
  async open() { database = true; return localStorage.getItem(`edittools ${study.study}`); },
  async call(path, body) {
    const answer = await fetch(path, {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({rater, tab, ...body})});
    if (answer.status === 409) throw new OtherTab();
    if (!answer.ok) throw Object.assign(new Error(await answer.text()), {refused: answer.status < 500});
    return answer.json();
  },
  async begin(name) {
    const found = await this.call("begin", {rater: name});
    localStorage.setItem(`edittools ${study.study}`, name);
    return found.answers;
  },
  queue: Promise.resolve(),  // one after the other, so that the last answer to a case is the one that stays
  save(number, answer) {
    const sent = this.queue.then(() => this.send(number, answer));
    this.queue = sent.catch(() => undefined);
    return sent;
  },
  async send(number, answer) {
    for (let wait = 500; ; wait = Math.min(2 * wait, 10000)) {
      try {
        await this.call(`answer/${number}`, {answer});
        element("trouble").hidden = true;
        return;
      } catch (error) {  // the server is away: it comes back, or the answers are exported
        if (error instanceof OtherTab || error.refused) throw error;
        trouble(`The server cannot be reached (${error.message}). Leave this page open: your answers are sent as soon as it is back.`);
        await new Promise((resolve) => setTimeout(resolve, wait));
        if (answers[number] !== answer) return;  // a later answer to this case is on its way
      }
    }
  },
  async load(number) {
    const answer = await fetch(`case/${number}`);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  },
};
const storage = server ? remote : local;

async function save(number) {
  if (lost) return;
  unsaved++;
  showSaved();
  try {
    await storage.save(number, answers[number]);
  } catch (error) {
    if (error instanceof OtherTab) return elsewhere();
    trouble(`Your answers cannot be saved (${error && error.message || error}). Export them before you close the page.`);
    return;
  } finally {
    unsaved--;
  }
  showSaved();
}

function trouble(text) {
  element("trouble").textContent = text;
  element("trouble").hidden = false;
  showSaved();
}

function elsewhere() {  // what is on this screen is no longer the truth
  lost = true;
  element("elsewhere").hidden = false;
  document.body.classList.add("lost");
  showSaved();
}

function showSaved() {
  const late = !database || lost || !element("trouble").hidden;
  element("saved").textContent = late ? "not saved" : unsaved ? "saving…" : "saved";
  element("saved").classList.toggle("late", late);
}

const channel = "BroadcastChannel" in window ? new BroadcastChannel("edittools-study") : null;
if (channel) channel.onmessage = ({data}) => {
  if (data.study === study.study && data.rater === rater && data.tab !== tab) elsewhere();
};

// ---------------------------------------------------------------- answers

function complete(number) {
  const answer = answers[number], given = answer ? Object.values(answer.given) : [];
  const count = given.reduce((sum, levels) => sum + Object.keys(levels).length, 0);
  if (answer !== undefined && study.none && answer.none) return true;
  if (answer === undefined || count !== (study.picks || answer.shown.length * dimensions.length)) return false;
  const level = study.levels[Object.values(given[0])[0] - 1];
  if (study.reasons.length && level === study.levels.at(-1)) return Boolean(answer.reason);
  return level !== study.edits || Object.values(answer.instruction || {}).some((words) => words.trim());
}

function levelOf([letter, dimension]) {
  const answer = answers[page.number];
  return answer && answer.given[letter] ? answer.given[letter][dimension] : undefined;
}

function answerHere() {
  return answers[page.number] || {given: {}, shown: page.shown};
}

function keep(answer) {
  if (lost) return;
  const at = new Date().toISOString();
  answers[page.number] = {...answer, at};
  if (!answer.first && complete(page.number)) answers[page.number].first = at;
  save(page.number);
}

function give([letter, dimension], level) {
  const answer = answerHere(), given = {...answer.given};
  if (level === undefined) delete given[letter];
  else given[letter] = {...given[letter], [dimension]: level};
  keep({...answer, given});
}

function rate(index, level) {
  const name = study.levels[level - 1];
  if (study.edits && changed() !== (name === study.edits) && name !== study.levels.at(-1)) {
    if (name !== study.edits) return update("You have changed the instruction: take that back first, or choose correct.");
    element("said").querySelector("textarea").focus();
    return update("Correct the instruction in its field; that is the answer.");
  }
  give(page.cells[index], level);
  const open = page.cells.map((cell, at) => levelOf(cell) === undefined ? at : -1).filter((at) => at >= 0);
  cursor = open.find((at) => at > index) ?? open[0] ?? index;
  update();
}

function pick(index) {
  if (index >= page.cells.length) return;
  cursor = index;
  const taken = levelOf(page.cells[index]) !== undefined;
  const picked = page.cells.filter((cell) => levelOf(cell) !== undefined).length;
  if (!taken && picked === study.picks && picked > 1) return update(`${picked} are picked already: take one back first.`);
  const {none: _, ...answer} = answerHere(), [letter, dimension] = page.cells[index];
  const given = study.picks > 1 ? {...answer.given} : {};  // of one the next pick is another
  if (taken) delete given[letter];
  else given[letter] = {[dimension]: 1};
  keep({...answer, given});
  update();
}

// ---------------------------------------------------------------- a review: the words may be corrected, a reject has a reason

const LANGUAGES = {en: "English", zh: "中文"};
let typing;

function fields() {
  const spoken = page.data.instructions[0], said = answerHere().instruction || spoken;
  return Object.keys({...LANGUAGES, ...spoken}).map((language) => {
    const field = make("textarea", {lang: language, dir: "auto", rows: 2, value: said[language] || "", placeholder: "–",
      oninput: () => { clearTimeout(typing); typing = setTimeout(corrected, 300); }, onchange: corrected});
    field.setAttribute("aria-label", `Instruction, ${LANGUAGES[language] || language}`);
    return make("label", {}, make("span", {textContent: LANGUAGES[language] || language}), field);
  });
}

function typed() {
  const words = [...element("said").querySelectorAll("textarea")].map((field) => [field.lang, field.value.trim()]);
  return Object.fromEntries(words.filter(([, text]) => text));
}

function changed() {
  const before = page.data.instructions[0], now = typed();
  return Object.keys({...before, ...now}).some((language) => (before[language] || "").trim() !== (now[language] || ""));
}

function corrected() {  // other words are the answer `correct`, the old ones take it back
  clearTimeout(typing);
  if (!page) return;
  const answer = answerHere(), [[letter, dimension]] = page.cells, level = 1 + study.levels.indexOf(study.edits);
  const given = {...answer.given};
  if (changed()) {
    if (study.edits && levelOf(page.cells[0]) !== study.levels.length) given[letter] = {[dimension]: level};
    keep({...answer, given, instruction: typed()});
  } else if (answer.instruction) {
    const {instruction: _, ...rest} = answer;
    if (study.edits && levelOf(page.cells[0]) === level) delete given[letter];
    keep({...rest, given});
  }
  update();
}

function noneOfThem() {
  const {none, ...answer} = answerHere();
  keep(none ? answer : {...answer, given: {}, none: true});
  update();
}

function showReasons() {
  if (study.none) {
    const button = make("button", {type: "button", textContent: study.none, onclick: noneOfThem});
    button.prepend(key("0"), " ");
    button.setAttribute("aria-pressed", Boolean(answerHere().none));
    element("why").hidden = false;
    element("why").setAttribute("aria-label", "No pick");
    return element("why").replaceChildren(button);
  }
  const wanted = study.reasons.length > 0 && levelOf(page.cells[0]) === study.levels.length;
  element("why").hidden = !wanted;
  if (!wanted) return;
  const said = answerHere().reason;
  element("why").replaceChildren(...study.reasons.map((reason, at) => {
    const button = make("button", {type: "button", textContent: reason, onclick: () => because(at)});
    button.prepend(key(at + 1), " ");
    button.setAttribute("aria-pressed", reason === said);
    return button;
  }));
}

function because(at) {
  keep({...answerHere(), reason: study.reasons[at]});
  update();
}

// ---------------------------------------------------------------- what is on screen

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const key = (name) => make("kbd", {textContent: name});
const single = study.rows && !study.picks;  // one image is asked about
const nameOf = (at) => single ? (page.data.source ? "edited" : "image") : `result ${at + 1}`;
const ownImages = (letter) => page.data.results[letter];

function instruction(spoken) {
  return Object.entries(spoken).map(([language, words]) => make("p", {lang: language, dir: "auto", textContent: words}));
}

function only(visible) {
  for (const id of ["start", "rating", "end"]) element(id).hidden = id !== visible;
}

function show() {
  const number = order[position], loaded = storage.load(number);
  if (!(loaded instanceof Promise)) return showCase(number, loaded);
  return loaded.then((data) => { if (order[position] === number) showCase(number, data); }, (error) => trouble(`The case cannot be loaded: ${error.message}`));
}

function showCase(number, data) {
  const shown = shuffled(Object.keys(data.results).sort(), `${study.study}/${rater}/${number}`);
  page = {number, data, shown, cells: shown.flatMap((letter) => dimensions.map((name) => [letter, name]))};
  const firstOpen = page.cells.findIndex((cell) => levelOf(cell) === undefined);
  cursor = study.picks ? 0 : Math.max(0, firstOpen);
  look = "own";
  only("rating");

  const said = element("said");
  if (study.edits || study.rewords) said.replaceChildren(...fields());
  else if (study.dialogue) said.replaceChildren(make("ol", {}, ...data.instructions.map((one) => make("li", {}, ...instruction(one)))));
  else said.replaceChildren(...instruction(data.instructions[0]));
  // A dialogue is a row that begins with the source; any other case a grid whose first image is the source.
  const sources = data.source ? [data.source, ...(data.references || [])] : [];
  const cards = shown.map((letter, at) => makeCard(at, study.dialogue ? [data.source, ...data.results[letter]] : data.results[letter], letter));
  if (!study.dialogue && sources.length) cards.unshift(makeCard(-1, sources, null));
  for (const button of document.querySelectorAll(".look")) button.disabled = !data.source;
  element("cards").classList.toggle("tiny", data.tiny);
  element("cards").replaceChildren(...cards);
  arrange(cards.length);
  setLook("own");
  window.scrollTo(0, 0);
  said.focus({preventScroll: true});
  update();
}

function arrange(cards) {  // as many columns as make the images largest
  const perRow = 78 + (study.dialogue ? 20 : 0) + (dimensions.length > 1 ? 64 : 44) * dimensions.length;
  const used = 150 + element("said").offsetHeight;
  const narrow = innerWidth < 640;  // a phone: one image under the other, each as wide as it is
  let best = {size: 0};
  for (let columns = 1; columns <= (study.dialogue || narrow ? 1 : cards); columns++) {
    const rows = Math.ceil(cards / columns);
    const width = (innerWidth - 40) / columns - 32, height = narrow ? innerHeight * 0.6 : (innerHeight - used) / rows - perRow;
    const size = Math.min(width / page.data.aspect, Math.max(height, 150));
    if (size > best.size) best = {size, columns, rows};
  }
  element("cards").style.setProperty("--columns", best.columns ?? 1);
  element("cards").style.setProperty("--height", `${Math.floor(best.size)}px`);
}

function makeCard(at, images, letter) {
  const name = letter === null ? "source" : single ? nameOf(at) : `${at + 1}`;
  const alts = images.map((_, turn) => letter === null ? (turn ? `source ${turn + 1}` : "source")
    : study.dialogue ? (turn ? `${nameOf(at)}, turn ${turn}` : "source") : nameOf(at));
  const frames = images.map((uri, turn) => letter === null || (study.dialogue && !turn)
    ? make("span", {className: "frame"}, make("img", {src: uri, alt: alts[turn]})) : edited(uri, alts[turn]));
  frames.forEach((frame, turn) => { frame.onclick = () => openViewer(shownImages().findIndex(([, , uri]) => uri === images[turn])); });
  const shown = make("div", {className: "images"}, ...frames.map((frame, turn) => make("figure", {}, frame,
    ...(study.dialogue ? [make("figcaption", {textContent: turn ? `turn ${turn}` : "source"})] : []))));
  const card = make("section", {className: "card"}, make("div", {className: "name"}, make("b", {textContent: name})), shown);
  card.setAttribute("aria-label", letter === null ? "source" : nameOf(at));
  if (letter === null) {
    card.classList.add("source");
    return card;
  }
  page.cells.forEach((cell, index) => {
    if (cell[0] === letter) card.append(makeCell(cell, index, nameOf(at)));
  });
  card.dataset.letter = letter;
  return card;
}

function makeCell(cell, index, name) {
  const made = make("div", {className: "cell"});
  if (dimensions.length > 1) made.append(make("span", {className: "what", textContent: cell[1]}));
  made.setAttribute("role", study.picks ? "group" : "radiogroup");
  made.setAttribute("aria-label", `${name}, ${cell[1]}`);
  study.levels.forEach((level, at) => {
    const button = make("button", {type: "button", textContent: study.picks ? "pick" : level,
      onclick: (event) => {
        study.picks ? pick(index) : rate(index, at + 1);
        if (event.detail) element("said").focus({preventScroll: true});  // of a mouse: the keys are the page's again
      }});
    if (!study.picks) button.setAttribute("role", "radio");
    made.append(button);
  });
  made.dataset.index = index;
  return made;
}

function update(stop) {
  const focused = document.activeElement;
  for (const made of document.querySelectorAll(".cell")) {
    const index = Number(made.dataset.index), level = levelOf(page.cells[index]);
    made.classList.toggle("here", index === cursor && !study.picks);
    [...made.children].filter((child) => child.tagName === "BUTTON").forEach((button, at) => {
      button.setAttribute(study.picks ? "aria-pressed" : "aria-checked", level === at + 1);
      button.tabIndex = study.picks || (level ?? 1) === at + 1 ? 0 : -1;
    });
  }
  for (const card of document.querySelectorAll(".card[data-letter]")) {
    const cells = page.cells.filter(([letter]) => letter === card.dataset.letter);
    card.classList.toggle("complete", single ? complete(page.number) : cells.every((cell) => levelOf(cell) !== undefined));
    const here = card.dataset.letter === page.cells[cursor][0];
    card.classList.toggle("here", here);
    if (here && !focused.closest("textarea")) card.scrollIntoView({block: "nearest"});
  }
  showReasons();
  showProgress();
  element("next").classList.toggle("ready", complete(page.number));
  element("hint").className = stop ? "stop" : "";
  element("hint").replaceChildren(...(stop ? [stop] : hint()));
}

function showProgress() {
  const done = order.filter(complete).length, all = server?.assigned ? done + left : order.length;
  element("place").textContent = server?.assigned ? `${position + 1}` : `${position + 1} of ${order.length}`;
  element("done").textContent = `${done} done`;
  element("bar").style.width = `${100 * done / Math.max(all, 1)}%`;
  element("bar").setAttribute("aria-valuenow", done);
  element("bar").setAttribute("aria-valuemax", all);
  element("who").textContent = rater;
  showSaved();
}

function levelKeys() {
  if (study.keys.length) return study.levels.flatMap((level, at) => [key(study.keys[at]), ` ${level}  `]);
  return study.levels.flatMap((level, at) => level === `${at + 1}` ? [key(level), " "] : [key(at + 1), ` ${level}  `]);
}

function hint() {
  if (complete(page.number)) return [key("Enter"), " next case   ", key("Backspace"), " the one before"];
  if (study.picks) return [study.picks > 1 ? `Pick the best ${study.picks}: ` : "Pick one: ", key(`1–${page.shown.length}`)];
  const [letter, dimension] = page.cells[cursor];
  if (study.reasons.length && levelOf(page.cells[cursor]) === study.levels.length) return ["Why? ", key(`1–${study.reasons.length}`)];
  const what = single ? dimension : `Result ${page.shown.indexOf(letter) + 1}, ${dimension}`;
  return [`${what}:  `, ...levelKeys()];
}

function keys() {
  const listed = study.picks
    ? [["1 – 8", study.picks > 1 ? `pick a result, or take it back; ${study.picks} of each case` : "pick an image, or take it back"]]
    : study.keys.length ? study.keys.map((letter, at) => [letter, study.levels[at]])
    : [[`1 – ${study.levels.length}`, study.levels[0] === "1" ? `from 1, bad, to ${study.levels.length}, excellent` : study.levels.join(", ")]];
  if (study.none) listed.push(["0", study.none]);
  if (study.edits || study.rewords) listed.push(["e", "correct the words; Escape leaves them"]);
  if (!study.picks && (!study.rows || dimensions.length > 1)) listed.push(["← →", study.rows ? "another question, to change its answer" : "another result, to change its answer"]);
  listed.push(["s", "held (or Space): the source in the place of every result"], ["d", "held: the difference from the source"],
    ["f", "source and result in turns"], ["z", "one image, large; + and − there"],
    ["Enter", "next case"], ["Backspace", "the case before"], ["PageDown", "leave a case for later"]);
  const asked = study.dimensions.map(({name, meaning}) => [name, meaning]);
  element("keys").replaceChildren(...asked.flatMap(([name, meaning]) => [make("dt", {textContent: name}), make("dd", {textContent: meaning})]),
    ...listed.flatMap(([name, meaning]) => [make("dt", {className: "key"}, ...name.split("   ").map(key)), make("dd", {className: "key", textContent: meaning})]));
}

// ---------------------------------------------------------------- from case to case

function move(step) {
  if (position + step < 0 || lost) return;
  position += step;
  if (position < order.length) return show();
  if (!server?.assigned) return finish();
  return storage.call("next", {}).then((found) => {  // of a study whose cases are given out one by one
    left = found.left;
    if (found.case === null) return finish();
    if (!order.includes(found.case)) order.push(found.case);
    position = order.indexOf(found.case);
    return show();
  }, (error) => error instanceof OtherTab ? elsewhere() : trouble(`The server cannot be reached (${error.message}).`));
}

function finish() {
  position = order.length;
  const open = order.filter((number) => !complete(number)).length;
  element("verdict").textContent = open ? `${open} of ${order.length} cases are not done yet`
    : server?.assigned && left ? "Nothing for you at the moment. Thank you!" : "That was the last case. Thank you!";
  only("end");
  element("verdict").focus();
}

function next() {
  if (study.edits || study.rewords) corrected();
  if (!complete(page.number)) return update(study.picks ? `Pick ${study.picks} first.` : single ? undefined : "Answer for every result first.");
  return move(1);
}

// ---------------------------------------------------------------- keys and buttons

document.addEventListener("keydown", (event) => {
  if (element("rating").hidden || event.ctrlKey || event.metaKey || event.altKey || element("viewer").open) return;
  if (event.target.tagName === "TEXTAREA") {
    if (event.key === "Escape") corrected(), element("said").focus({preventScroll: true});
    return;
  }
  const letter = study.keys.indexOf(event.key.toLowerCase());
  const level = letter >= 0 ? letter + 1 : Number(event.key), inGroup = event.target.closest(".cell");
  const sideways = {ArrowLeft: -1, ArrowRight: 1}[event.key], along = {ArrowUp: -1, ArrowDown: 1}[event.key];
  const because_ = study.reasons.length && letter < 0 && levelOf(page.cells[0]) === study.levels.length;
  if (sideways) cursor = Math.min(Math.max(cursor + sideways, 0), page.cells.length - 1), update(), inGroup && focusCell();
  else if (along && inGroup && !study.picks) {
    cursor = Number(inGroup.dataset.index);
    const at = cursor, now = levelOf(page.cells[at]) ?? 0;
    rate(at, Math.min(Math.max(now + along, 1), study.levels.length));
    cursor = at;
    update();
    focusCell();
  } else if (event.key === "Enter" && event.target.tagName === "BUTTON") return;  // the button's own
  else if (event.repeat && ![" ", "s", "d"].includes(event.key)) return;  // a key held down is one answer
  else if (lookKey(event, true)) ;
  else if (event.key === "z") openViewer(shownImages().findIndex(([shown]) => shown === page.cells[cursor][0]));
  else if (event.key === "0" && study.none) noneOfThem();
  else if (event.key === "e" && (study.edits || study.rewords)) element("said").querySelector("textarea").focus();
  else if (event.key === "Enter") next();
  else if (event.key === "Backspace" || event.key === "PageUp") move(-1);
  else if (event.key === "PageDown") move(1);
  else if (because_ && level >= 1 && level <= study.reasons.length) because(level - 1);
  else if (Number.isInteger(level) && level >= 1 && study.picks) pick(level - 1);
  else if (Number.isInteger(level) && level >= 1 && level <= study.levels.length) rate(cursor, level);
  else return;
  event.preventDefault();
});
document.addEventListener("keyup", (event) => { if (!event.target.closest("textarea, input")) lookKey(event, false); });
window.addEventListener("blur", () => { if (look !== "flicker") setLook("own"); });
window.addEventListener("resize", () => { if (page && !element("rating").hidden) arrange(element("cards").children.length); });

function focusCell() {
  document.querySelector(`.cell[data-index="${cursor}"] button[tabindex="0"]`)?.focus();
}

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = element("rater").value.trim();
  if (name) begin(name).catch(cannotSave);
});
element("leave").addEventListener("click", () => { only("start"); element("rater").focus(); });
element("previous").addEventListener("click", () => move(-1));
element("next").addEventListener("click", () => next());
element("zoom").addEventListener("click", () => openViewer(shownImages().findIndex(([shown]) => shown === page.cells[cursor][0])));
element("takeover").addEventListener("click", () => location.reload());
element("back").addEventListener("click", () => {
  position = Math.max(0, order.findIndex((number) => !complete(number)));
  if (order.length) show();
});
for (const button of document.querySelectorAll(".export")) button.addEventListener("click", () => {
  const data = {format: study.format, version: study.version, study: study.study, rater, exported: new Date().toISOString(), answers};
  const link = make("a", {
    href: URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], {type: "application/json"})),
    download: `answers-${rater.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.json`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  button.blur();
});

// ---------------------------------------------------------------- begin, or go on

const cannotSave = (error) => trouble(`Your answers cannot be saved (${error && error.message || error}). Export them before you close the page.`);

const opening = storage.open();

async function begin(name) {
  await opening.catch(() => null);  // whoever is quick has a database too; without one, see load()
  const found = await storage.begin(name);
  rater = name;
  answers = found;
  lost = false;
  const listed = study.only ?? Array.from({length: study.cases}, (_, number) => number);
  order = server?.assigned ? Object.keys(answers).map(Number) : shuffled(listed, `${study.study}/${rater}`);
  if (channel) channel.postMessage({study: study.study, rater, tab});
  const open = order.findIndex((number) => !complete(number));
  position = open < 0 ? order.length : open;
  if (open < 0) await move(0); else await show();
  return order;
}

async function load() {
  const count = study.only ? study.only.length : study.cases;
  element("question").textContent = `${study.question}${server?.assigned ? "" : ` There are ${count} cases.`}`;
  element("where").textContent = server
    ? "Every answer is sent as you give it. You may close the page and come back to it, under the same name, whenever you like."
    : "Nothing on this page leaves your computer. Every answer is saved as you give it; you may close the page and come back to it, in this browser, whenever you like. At the end it makes a file for you to send back.";
  element("after").textContent = server ? "Your answers are with whoever asked you. You can still go back and change some."
    : "Export your answers and send the file to whoever asked you. You can still go back and change some, and export again.";
  keys();
  try {
    const last = await opening;
    if (last) await begin(last);
  } catch (error) {
    cannotSave(error);
  }
}
