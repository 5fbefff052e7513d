// The page's side of the websocket: shows what is said, sends what is typed, and connects
// again by itself when the connection is lost. Everything shown goes in as text, not markup.
(function () {
  "use strict";

  var FIRST_RETRY = 500; // milliseconds, doubled at each failure up to LAST_RETRY
  var LAST_RETRY = 15000;
  var KEPT_LINES = 500;

  function element(id) { return document.getElementById(id); }

  var lines = element("lines");
  var status = element("status");
  var problem = element("problem");
  var name = element("name");
  var text = element("text");
  var send = element("send");
  var retry = FIRST_RETRY;
  var socket = null;

  function socketAddress() {
    var scheme = location.protocol === "https:" ? "wss://" : "ws://";
    return scheme + location.host + "/ws/" + document.body.dataset.room + "/";
  }

  function showState(state, words) {
    status.dataset.state = state;
    status.textContent = words;
    send.disabled = state !== "open";
  }

  function showLine(line) {
    var atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
    var item = document.createElement("li");
    var when = document.createElement("time");
    var who = document.createElement("span");
    var date = new Date(line.sent * 1000);
    when.dateTime = date.toISOString();
    when.textContent = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    who.className = "who";
    who.textContent = line.name;
    item.appendChild(when);
    item.appendChild(who);
    item.appendChild(document.createTextNode(line.text));
    lines.appendChild(item);
    while (lines.children.length > KEPT_LINES) { lines.removeChild(lines.firstChild); }
    // Whoever has scrolled back to read is left there.
    if (atEnd) { lines.scrollTop = lines.scrollHeight; }
  }

  function connect() {
    showState("connecting", "Connecting…");
    socket = new WebSocket(socketAddress());
    socket.onopen = function () {
      retry = FIRST_RETRY;
      showState("open", "Connected");
    };
    socket.onmessage = function (event) {
      var message = JSON.parse(event.data);
      if (message.kind === "line") { showLine(message); } else { problem.textContent = message.text; }
    };
    socket.onclose = function () {
      showState("closed", "Disconnected, trying again");
      setTimeout(connect, retry);
      retry = Math.min(retry * 2, LAST_RETRY);
    };
  }

  element("say").addEventListener("submit", function (event) {
    event.preventDefault();
    problem.textContent = "";
    if (!text.value.trim() || socket.readyState !== WebSocket.OPEN) { return; }
    socket.send(JSON.stringify({ name: name.value, text: text.value }));
    try { localStorage.setItem("chat-name", name.value); } catch (error) { /* private browsing */ }
    text.value = "";
    text.focus();
  });

  try { name.value = localStorage.getItem("chat-name") || ""; } catch (error) { /* private browsing */ }
  (name.value ? text : name).focus();
  connect();
}());
