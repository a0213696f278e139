"use strict";
const $ = id => document.getElementById(id);
const THUMB = '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linejoin="round" aria-hidden="true"><path d="M7 11v9H3v-9zM7 11l4-8c2 0 3 1 3 3l-1 4h6c1 0 2 1 2 2l-2 7c0 1-1 1-2 1H7"/></svg>';
const RATE = 16000, LONGEST = 10, SIDE = 512; // Hz and seconds of a recording; pixels of a picture that is sent
const client = localStorage.client ||= crypto.randomUUID?.() || String(Math.random());
const models = {};
let turns = [], speaking = null, answering = null;

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

class Refused extends Error {
  constructor(status, code, message) { super(message); this.status = status; this.code = code; }
}

async function call(path, options = {}) {
  const headers = { "x-client-id": client, ...options.headers };
  if (sessionStorage.key) headers.authorization = "Bearer " + sessionStorage.key;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "", "The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const { error = {} } = await response.json().catch(() => ({}));
  if (response.status === 401) askKey();
  const wait = response.headers.get("retry-after");
  throw new Refused(response.status, error.code, {
    401: "This server wants an API key.",
    429: `The server is busy. Try again in ${wait || "a few"} s.`,
    503: "The model is not ready yet. Try again in a moment.",
    504: "The answer took too long.",
  }[response.status] || error.message || "Something went wrong.");
}

const post = (path, body, options) =>
  call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), ...options });

function askKey() { if (!$("key-dialog").open) { $("key-dialog").showModal(); $("key").focus(); } }

function complain(place, error) {
  const line = element("p", "error", error.message);
  line.setAttribute("role", "alert");
  place.append(line);
  line.scrollIntoView({ block: "nearest" });
}

function judge(id, version, model) {
  const foot = element("div", "foot");
  for (const [thumb, label] of [[1, "Good answer"], [-1, "Bad answer"]]) {
    const button = element("button", "quiet" + (thumb < 0 ? " down" : ""));
    button.type = "button";
    button.innerHTML = THUMB;
    if (thumb < 0) button.firstChild.style.transform = "rotate(180deg)";
    button.setAttribute("aria-label", label);
    button.setAttribute("aria-pressed", "false");
    button.onclick = async () => {
      try {
        await post("/v1/feedback", { id, thumb });
        for (const each of foot.querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === button));
      } catch (error) { complain(foot, error); }
    };
    foot.append(button);
  }
  foot.append(element("span", "version", `${model} ${version}`));
  return foot;
}

async function refresh() {
  try {
    const { serving, missing } = await (await fetch("/readyz")).json();
    for (const kind of Object.keys(models)) delete models[kind];
    $("serving").replaceChildren(...Object.entries(serving).map(([name, about]) => {
      models[about.kind] ||= name;
      const chip = element("li");
      chip.append(name + " ", element("b", "", about.champion));
      if (about.challenger) chip.append(" and ", element("b", "", about.challenger));
      return chip;
    }), ...Object.keys(missing).map(name => element("li", "missing", name === "*" ? "no model yet" : `${name}: not as wanted`)));
  } catch { $("serving").replaceChildren(element("li", "missing", "no connection")); }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(500, event.error.code, event.error.message);
      yield event;
    }
  }
}

async function openChat(signal) {
  for (;;) {
    try {
      return await post("/v1/chat/completions", {
        model: models.decoder || "decoder", messages: turns, stream: true,
        temperature: $("temperature").valueAsNumber || 0, max_tokens: $("tokens").valueAsNumber || 64,
      }, { signal });
    } catch (error) {
      if (error.code !== "context_length_exceeded" || turns.length < 3) throw error;
      turns = turns.slice(2); // the oldest question and its answer no longer fit
    }
  }
}

async function chat(text) {
  const talk = $("talk");
  talk.querySelector(".empty")?.remove();
  const mine = element("div", "said mine"), theirs = element("div", "said theirs waiting"), words = element("p");
  mine.append(element("p", "", text));
  theirs.append(words);
  talk.append(mine, theirs);
  talk.scrollTop = talk.scrollHeight;
  turns.push({ role: "user", content: text });
  answering = new AbortController();
  $("send").hidden = true; $("stop").hidden = false;
  try {
    const response = await openChat(answering.signal);
    try {
      for await (const event of events(response)) {
        words.textContent += event.choices[0]?.delta?.content || "";
        talk.scrollTop = talk.scrollHeight;
      }
    } catch (error) { if (error.name !== "AbortError") throw error; }
    if (!words.textContent) words.append(element("em", "", "(no words)"));
    turns.push({ role: "assistant", content: words.textContent });
    theirs.append(judge(response.headers.get("x-request-id"), response.headers.get("x-tsumugi-version"), models.decoder || ""));
  } catch (error) {
    turns.pop();
    if (!words.textContent) theirs.remove();
    if (error.name !== "AbortError") complain(talk, error);
  }
  theirs.classList.remove("waiting");
  answering = null;
  $("send").hidden = false; $("stop").hidden = true;
  talk.scrollTop = talk.scrollHeight;
  $("message").focus();
}

async function shrink(file) {
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) return file; // the server says what is wrong with it
  const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise(done => canvas.toBlob(done, "image/png"));
}

async function toWav(blob) { // whatever the browser can decode, as 16-bit mono at 16 kHz
  const context = new AudioContext();
  const decoded = await context.decodeAudioData(await blob.arrayBuffer()).catch(() => null);
  context.close();
  if (!decoded) return blob;
  const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(decoded.duration * RATE)), RATE);
  const source = offline.createBufferSource();
  source.buffer = decoded; source.connect(offline.destination); source.start();
  const samples = (await offline.startRendering()).getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  word(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}

async function look(kind, value, shown) {
  const place = $("found"), asked = element("div", "asked");
  if (kind === "image") {
    const picture = element("img");
    picture.src = URL.createObjectURL(value); picture.alt = "your picture";
    asked.append(picture);
  }
  const words = element("p", "", shown);
  asked.append(words);
  place.replaceChildren(asked);
  try {
    const form = new FormData();
    form.append(kind, value);
    const response = await call("/v1/search", { method: "POST", body: form });
    const answer = await response.json();
    if (answer.transcript) words.textContent = `You said: “${answer.transcript}”`;
    else if (kind !== "image") words.textContent = `“${value}”`;
    else words.textContent = "Pictures like yours";
    const grid = element("ul", "grid");
    grid.append(...await Promise.all(answer.data.map(found)));
    const foot = judge(answer.id, response.headers.get("x-tsumugi-version"), answer.model), by = answer.heard_by;
    if (by) foot.append(element("span", "heard", `heard by ${by.model} ${by.version}`));
    place.append(grid, foot);
  } catch (error) { (kind === "image" ? words : asked).remove(); complain(place, error); }
  place.scrollIntoView({ block: "nearest" });
}

async function found({ url, text, key, score }) {
  const item = element("li"), figure = element("figure"), picture = element("img"), caption = element("figcaption", "", text || key);
  picture.alt = text || key;
  caption.append(" ", element("b", "", score.toFixed(2)));
  try { picture.src = URL.createObjectURL(await (await call(url)).blob()); } catch { picture.alt = "not loaded: " + picture.alt; }
  figure.append(picture, caption);
  item.append(figure);
  return item;
}

async function take(file) {
  if (!file) return;
  if (file.type.startsWith("image/")) return look("image", await shrink(file), "Looking at your picture…");
  if (file.type.startsWith("audio/")) return look("audio", await toWav(file), "Listening…");
  complain($("found"), new Error(`${file.name} is neither a picture nor a sound.`));
}

async function record() {
  if (speaking) { speaking.stop(); return; }
  let stream;
  try { stream = await navigator.mediaDevices.getUserMedia({ audio: true }); }
  catch { complain($("found"), new Error("The microphone cannot be used. Allow it for this page, or choose a sound file.")); return; }
  const parts = [], started = Date.now();
  speaking = new MediaRecorder(stream);
  speaking.ondataavailable = event => parts.push(event.data);
  const clock = setInterval(() => {
    const seconds = Math.floor((Date.now() - started) / 1000);
    $("recording").textContent = `Recording ${seconds} s of ${LONGEST}`;
    if (seconds >= LONGEST - 1) speaking?.stop();
  }, 200);
  speaking.onstop = async () => {
    clearInterval(clock);
    stream.getTracks().forEach(track => track.stop());
    const type = speaking.mimeType;
    speaking = null;
    $("recording").textContent = "";
    $("record").setAttribute("aria-pressed", "false");
    $("record").lastChild.textContent = "Speak";
    await look("audio", await toWav(new Blob(parts, { type })), "Listening…");
  };
  speaking.start();
  $("record").setAttribute("aria-pressed", "true");
  $("record").lastChild.textContent = "Stop";
}

$("ask").onsubmit = event => {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || answering) return;
  $("message").value = "";
  chat(text);
};
$("message").onkeydown = event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
};
$("message").oninput = () => { $("message").rows = Math.min(6, $("message").value.split("\n").length); };
$("stop").onclick = () => answering?.abort();
$("clear").onclick = () => {
  answering?.abort();
  turns = [];
  $("talk").replaceChildren(element("p", "empty", "Ask something. The answer comes word by word, and says which version wrote it."));
  $("message").focus();
};
$("look").onsubmit = event => {
  event.preventDefault();
  const text = $("words").value.trim();
  if (text) look("text", text, "Looking…");
};
$("file").onchange = async () => { await take($("file").files[0]); $("file").value = ""; };
$("record").onclick = record;
$("open-key").onclick = askKey;
$("key-form").onsubmit = () => { sessionStorage.key = $("key").value.trim(); $("key").value = ""; refresh(); };
const card = $("search");
card.ondragover = event => { event.preventDefault(); card.classList.add("over"); };
card.ondragleave = () => card.classList.remove("over");
card.ondrop = event => { event.preventDefault(); card.classList.remove("over"); take(event.dataTransfer.files[0]); };
refresh();
setInterval(refresh, 5000);
