// The page's side of the websocket. It shows what is said, sends what is typed, and connects
// again by itself when the connection is lost. Everything shown goes in as text, never markup.
//
// A line that was typed waits in `unsent` until it comes back from the room, and is sent again
// after a lost connection; each has an id, by which a page that gets it twice shows it once.
"use strict";

(() => {
  const FIRST_RETRY = 500; // milliseconds, doubled at each failure up to LAST_RETRY
  const LAST_RETRY = 15000;
  const FORGET = 12500; // milliseconds after which a silent process counts as gone
  const SILENCE = 20000; // milliseconds after which a silent connection counts as lost
  const KEPT_LINES = 500;
  const KEPT_IDS = 1000;
  const ONE_BREATH = 180; // seconds between lines of one person that are shown as one piece
  const FACES = ["#3b5bab", "#8a3f7d", "#1f7268", "#9a4a24", "#6a4fb3", "#39701f", "#a03350", "#2b6c8f"];
  const ADJECTIVES = ["Quiet", "Brisk", "Amber", "Early", "Gentle", "Lucky", "Northern", "Silver"];
  const ANIMALS = ["Otter", "Heron", "Lynx", "Finch", "Badger", "Hare", "Marten", "Plover"];

  const element = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) { made.className = className; }
    if (text !== undefined) { made.textContent = text; }
    return made;
  };
  const pick = (list) => list[Math.floor(Math.random() * list.length)];
  const makeId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

  const scroller = element("scroller");
  const lines = element("lines");
  const text = element("text");
  const name = element("name");
  const panel = element("panel");
  const panelButton = element("panel-button");

  let socket = null;
  let heard = 0; // when the socket last brought something, in milliseconds
  let retry = FIRST_RETRY;
  let retryAt = 0;
  let retryTimer = null;
  let everOpen = false;
  let last = null; // the line above the next one
  let reading = false; // whether somebody has scrolled back
  let job = null; // the picture that we wait for: {id, words}
  const unsent = new Map(); // id -> {content, item}, in the order of typing
  const shown = new Set(); // ids of lines that are there
  const processes = new Map(); // process -> {count, names, at}

  // -- the connection ----------------------------------------------------------------

  function connect() {
    clearTimeout(retryTimer);
    showState("connecting", "Connecting");
    const scheme = location.protocol === "https:" ? "wss://" : "ws://";
    const ours = new WebSocket(scheme + location.host + "/ws/" + document.body.dataset.room + "/");
    socket = ours;
    heard = Date.now();
    ours.onmessage = (event) => {
      if (socket !== ours) { return; }
      heard = Date.now();
      const message = JSON.parse(event.data);
      const handle = Object.hasOwn(handlers, message.kind) && handlers[message.kind];
      if (handle) { handle(message); }
    };
    ours.onclose = () => { if (socket === ours) { lost(); } };
  }

  function lost() {
    socket = null;
    processes.clear();
    showPeople();
    endJob("The connection was lost. If the picture is painted, it still comes to the room.");
    // Not all pages of a server that comes back should knock in the same moment.
    const wait = retry * (0.75 + Math.random() / 2);
    retry = Math.min(retry * 2, LAST_RETRY);
    retryAt = Date.now() + wait;
    retryTimer = setTimeout(connect, wait);
    showState("closed", "Disconnected");
    element("where").textContent = "What you write is sent when the server is back.";
    tick();
  }

  function hurry() {
    if (!socket) { connect(); }
  }

  function transmit(content) {
    if (socket && socket.readyState === WebSocket.OPEN) { socket.send(JSON.stringify(content)); }
  }

  function tick() {
    const seconds = Math.ceil((retryAt - Date.now()) / 1000);
    element("countdown").textContent = !socket && seconds > 0 ? ` – again in ${seconds} s` : "";
    let changed = false;
    for (const [process, told] of processes) {
      if (Date.now() - told.at > FORGET) { changed = processes.delete(process); }
    }
    if (changed) { showPeople(); }
    // A cable that was pulled closes nothing; but each server process tells who is here.
    if (socket && Date.now() - heard > SILENCE) {
      const silent = socket;
      socket = null;
      silent.close();
      lost();
    }
  }

  // -- what the server sends -----------------------------------------------------------

  const handlers = {
    hello(message) {
      retry = FIRST_RETRY;
      element("where").textContent = `Process ${message.process}` + (message.port ? `, port ${message.port}` : "");
      showState("open", "Connected");
      transmit({ kind: "name", name: name.value });
      if (everOpen) { showBreak("Connected again. What others said meanwhile is not shown."); }
      everOpen = true;
      for (const waiting of unsent.values()) { transmit(waiting.content); }
    },
    line: showLine,
    announcement: showLine,
    picture: showLine,
    present(message) {
      processes.delete(message.process);
      if (message.count) {
        processes.set(message.process, { count: message.count, names: message.names, at: Date.now() });
      }
      showPeople();
    },
    job(message) {
      if (!job || job.id !== message.id) { return; }
      if (message.state === "done") { endJob(""); return; }
      element("job-words").textContent = (message.state === "waiting" ? "Waiting for a painter: " : "Painting: ") + job.words;
      element("job-percent").textContent = message.percent + " %";
      element("job-progress").value = message.percent;
      if (message.percent === 0) { element("job-news").textContent = element("job-words").textContent; }
    },
    error(message) {
      const refused = unsent.get(message.id);
      if (refused) { refused.item.remove(); unsent.delete(message.id); }
      if (job && job.id === message.id) { endJob(""); }
      element("problem").textContent = message.text;
    },
  };

  // -- what is shown ---------------------------------------------------------------------

  function showState(state, words) {
    element("state").dataset.state = state;
    element("state-words").textContent = words;
    if (state !== "closed") { element("countdown").textContent = ""; }
  }

  function face(called) {
    let sum = 0;
    for (const letter of called) { sum = (sum * 31 + letter.codePointAt(0)) % 65521; }
    const made = make("span", "face", (Array.from(called.trim())[0] || "?").toUpperCase());
    made.style.backgroundColor = FACES[sum % FACES.length];
    made.setAttribute("aria-hidden", "true");
    return made;
  }

  function who(line, called) {
    const made = make("div", "who");
    const date = new Date(line.sent * 1000);
    const when = make("time", "", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
    when.dateTime = date.toISOString();
    made.append(make("b", "", called), when, ` · process ${line.process}`);
    return made;
  }

  function words(line) {
    if (line.kind !== "picture") { return make("div", "words", line.text); }
    const figure = make("figure", "words");
    const image = make("img");
    image.width = line.width;
    image.height = line.height;
    image.alt = "A picture painted from the words: " + line.text;
    image.src = "data:image/png;base64," + line.png;
    figure.append(image, make("figcaption", "", "“" + line.text + "”"));
    return figure;
  }

  function showLine(line) {
    const waiting = unsent.get(line.id);
    if (waiting) { waiting.item.remove(); unsent.delete(line.id); }
    if (shown.has(line.id)) { return; }
    shown.add(line.id);
    if (shown.size > KEPT_IDS) { shown.delete(shown.values().next().value); }
    const own = Boolean(waiting);
    const item = make("li", line.kind + (own ? " own" : ""));
    if (last && last.kind === "line" && line.kind === "line" && last.name === line.name &&
        last.own === own && last.process === line.process && line.sent - last.sent < ONE_BREATH) {
      item.classList.add("more");
    }
    last = { kind: line.kind, name: line.name, process: line.process, sent: line.sent, own };
    if (line.kind !== "announcement") { item.append(face(line.name)); }
    item.append(who(line, own ? "You" : line.name), words(line));
    add(lines, item, own);
  }

  function showBreak(sentence) {
    last = null;
    add(lines, make("li", "break", sentence), false);
  }

  function showUnsent(line) {
    const item = make("li", "line own");
    item.append(make("div", "words", line.text));
    add(element("unsent"), item, true);
    return item;
  }

  // Whoever has scrolled back to read is left there, and told that there is more.
  function add(list, item, evenIfAway) {
    element("empty").hidden = true;
    list.append(item);
    while (lines.children.length > KEPT_LINES) { lines.firstElementChild.remove(); }
    if (reading && !evenIfAway) { element("newer").hidden = false; } else { toEnd(); }
  }

  function toEnd() {
    reading = false;
    scroller.scrollTop = scroller.scrollHeight;
    element("newer").hidden = true;
  }

  function showPeople() {
    let count = 0;
    const people = [];
    for (const [process, known] of processes) {
      count += known.count;
      for (const called of known.names) { people.push({ called, process }); }
    }
    people.sort((one, other) => one.called.localeCompare(other.called));
    const list = element("people");
    list.replaceChildren();
    for (const { called, process } of people) {
      const item = make("li");
      const label = make("span", "called", called + " ");
      label.append(make("small", "", process));
      label.title = `${called}, by process ${process}`;
      item.append(face(called), label);
      list.append(item);
    }
    if (count > people.length) { list.append(make("li", "others", `and ${count - people.length} more`)); }
    element("count").textContent = count;
    panelButton.querySelector(".number").textContent = count;
  }

  function endJob(sentence) {
    if (!job) { return; }
    job = null;
    element("job").hidden = true;
    element("paint").disabled = false;
    element("job-news").textContent = "";
    element("problem").textContent = sentence;
  }

  // -- what the person does ----------------------------------------------------------------

  element("say").addEventListener("submit", (event) => {
    event.preventDefault();
    element("problem").textContent = "";
    const said = text.value.trim();
    if (!said) { return; }
    const content = { kind: "say", id: makeId(), text: said };
    unsent.set(content.id, { content, item: showUnsent(content) });
    transmit(content);
    text.value = "";
    text.focus();
  });

  element("paint").addEventListener("click", () => {
    const wanted = text.value.trim().slice(0, Number(document.body.dataset.maxWords));
    element("problem").textContent = "";
    if (!wanted) {
      element("problem").textContent = "Write in the message box what to paint.";
    } else if (!socket || socket.readyState !== WebSocket.OPEN) {
      element("problem").textContent = "There is no connection at this moment.";
    } else {
      job = { id: makeId(), words: wanted };
      element("job").hidden = false;
      element("paint").disabled = true;
      handlers.job({ id: job.id, state: "waiting", percent: 0 });
      transmit({ kind: "paint", id: job.id, words: wanted });
      text.value = "";
    }
    text.focus();
  });

  name.addEventListener("change", () => {
    name.value = name.value.trim() || freshName();
    try { sessionStorage.setItem("chat-name", name.value); } catch { /* not allowed to keep it */ }
    transmit({ kind: "name", name: name.value });
  });

  function freshName() { return pick(ADJECTIVES) + " " + pick(ANIMALS); }

  function showPanel(wanted) {
    panel.classList.toggle("shown", wanted);
    panelButton.setAttribute("aria-expanded", String(wanted));
  }

  panelButton.addEventListener("click", () => showPanel(!panel.classList.contains("shown")));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel.classList.contains("shown")) { showPanel(false); panelButton.focus(); }
  });
  document.addEventListener("click", (event) => {
    if (!panel.contains(event.target) && !panelButton.contains(event.target)) { showPanel(false); }
  });
  element("newer").addEventListener("click", toEnd);
  scroller.addEventListener("scroll", () => {
    reading = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight > 60;
    if (!reading) { element("newer").hidden = true; }
  });
  // A keyboard on the screen, a turned phone, the progress of a picture.
  new ResizeObserver(() => { if (!reading) { toEnd(); } }).observe(scroller);
  window.addEventListener("online", hurry);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { hurry(); } });

  // For this window only, so that two windows are two people.
  try { name.value = sessionStorage.getItem("chat-name") || freshName(); } catch { name.value = freshName(); }
  try { sessionStorage.setItem("chat-name", name.value); } catch { /* not allowed to keep it */ }
  showPeople();
  connect();
  setInterval(tick, 500);
  if (window.matchMedia("(min-width: 48rem)").matches) { text.focus(); }
})();
