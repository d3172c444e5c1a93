// Chat: conversations that stay in this browser. Each answer is a job: its id and the last event seen are kept beside
// the text, so that a reload, or a lost network, goes on where the answer was.

import { get, line, remove } from "./api.js";
import { button, fill, h, notice, seconds } from "./dom.js";

const KEY = "tokenyard.conversations";
const OPTIONS = [
  ["temperature", 0, 2, 0.1], ["top_p", 0.05, 1, 0.05], ["top_k", 0, 1000, 1],
  ["min_p", 0, 1, 0.05], ["max_tokens", 1, 131072, 1], ["seed", 0, 4294967295, 1],
];
const QUIET = { class: "quiet" };
let conversations = load();
let dirty = false;

function load() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? [];
  } catch {
    return [];
  }
}

function save() {
  dirty = false;
  try {
    localStorage.setItem(KEY, JSON.stringify(conversations));
  } catch {
    notice("This browser keeps no more conversations. Delete some.");
  }
}

// Text and number of the last event go to the disk together, a few times a second and when the page goes away.
setInterval(() => dirty && save(), 400);
addEventListener("pagehide", () => dirty && save());

function create() {
  const model = conversations[0]?.model ?? "";
  const made = { id: crypto.randomUUID?.() ?? `${Date.now()}`, title: "New chat", model, system: "", options: {}, turns: [] };
  conversations.unshift(made);
  save();
  return made;
}

/** Follows what was still running when the page went away. */
function resume() {
  for (const talk of conversations) {
    for (const turn of talk.turns) {
      if (turn.role === "user" || turn.ended) continue;
      if (turn.job) line.follow(turn.job, turn.seq, (frame) => take(turn, frame));
      else Object.assign(turn, { ended: true, error: "The page went away before this was accepted. Retry it." });
    }
  }
}

function take(turn, frame) {
  if (frame.type === "token") {
    turn.first ??= Date.now();
    turn.text += frame.text;
    turn.seq = frame.seq;
    turn.wait = null;
  } else if (frame.type === "progress") {
    turn.wait = frame;
  } else {
    turn.ended = true;
    turn.wait = null;
    if (frame.type === "done") Object.assign(turn, { reason: frame.done_reason, stats: stats(turn, frame) });
    else turn.error = frame.error.message;
    turn.changed?.(true);
    save();
    return;
  }
  dirty = true;
  turn.changed?.(false);
}

function stats(turn, frame) {
  const rate = frame.eval_count / Math.max(frame.eval_duration / 1e9, 1e-6);
  const first = turn.first && turn.asked ? (turn.first - turn.asked) / 1000 : null;
  return [`${frame.eval_count} tokens`, `${rate.toFixed(1)} tokens/s`, first != null && `first after ${seconds(first)}`]
    .filter(Boolean).join(" · ");
}

function waiting(turn) {
  const wait = turn.wait;
  if (!wait) return turn.text ? "" : "Waiting …";
  if (wait.loading) return "The model is being loaded …";
  const parts = [wait.position != null && `Position ${wait.position} in the queue`];
  if (wait.estimated_wait_seconds != null) parts.push(`about ${seconds(wait.estimated_wait_seconds)}`);
  return parts.filter(Boolean).join(", ") || "In the queue …";
}

export function show(root) {
  let talk = conversations[0] ?? create();
  const list = h("ul", { class: "talks" });
  const thread = h("div", { class: "thread", "aria-live": "off" });
  const model = h("select", { id: "model", onchange: () => { talk.model = model.value; save(); } });
  const settings = h("details", { class: "settings" });
  const box = h("textarea", { id: "box", rows: 1, placeholder: "Ask something …", "aria-label": "Message" });
  const send = h("button", { type: "submit", class: "primary" }, "Send");
  // Where it stays in its place, not under a text that grows.
  const halt = button("Stop", () => stop(running()), { class: "danger" });
  const form = h("form", { class: "ask", onsubmit: (event) => { event.preventDefault(); submit(); } }, box, halt, send);

  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });

  fill(root,
    h("h1", { class: "skip" }, "Chat"),
    h("aside", { "aria-label": "Conversations" },
      button("New chat", () => { talk = create(); draw(); box.focus(); }), list),
    h("section", { class: "talk", "aria-label": "Conversation" },
      h("div", { class: "tools" }, h("label", { for: "model" }, "Model"), model, settings),
      thread, form));

  function submit() {
    const text = box.value.trim();
    if (!text || running()) return;
    if (!model.value) { notice("There is no model yet. Pull one under Models."); return; }
    box.value = "";
    if (!talk.turns.length) talk.title = text.slice(0, 60);
    talk.turns.push({ role: "user", text });
    answer();
  }

  function answer() {
    talk.model = model.value;
    const messages = [
      ...(talk.system ? [{ role: "system", content: talk.system }] : []),
      ...talk.turns.filter((turn) => turn.text).map((turn) => ({ role: turn.role, content: turn.text })),
    ];
    const turn = { role: "assistant", text: "", seq: 0, asked: Date.now(), model: talk.model };
    talk.turns.push(turn);
    line.generate({ model: talk.model, messages, timeout: 600, ...talk.options },
      (job) => { turn.job = job; save(); turn.changed?.(false); }, (frame) => take(turn, frame));
    save();
    draw();
  }

  /** Takes the conversation back to before a turn. */
  function cut(at) {
    for (const turn of talk.turns.splice(at)) stop(turn);
    save();
  }

  function running() {
    return talk.turns.findLast((turn) => turn.role === "assistant" && !turn.ended);
  }

  function drawHalt() {
    const turn = running();
    send.hidden = Boolean(turn);
    halt.hidden = !turn;
    halt.disabled = !turn?.job;
  }

  function stop(turn) {
    if (turn?.job && !turn.ended) remove(`/jobs/${turn.job}`).catch((error) => notice(error.message));
  }

  function drawTurn(turn, at) {
    const text = h("div", { class: "text" });
    const note = h("p", { class: "note" });
    const acts = h("div", { class: "acts" });
    const article = h("article", { class: turn.role },
      h("h2", {}, turn.role === "user" ? "You" : turn.model ?? "Answer"), text, h("div", { class: "foot" }, acts, note));
    const refresh = (ended) => {
      text.textContent = turn.text;
      note.textContent = turn.error ?? (turn.ended || turn.role === "user" ? turn.stats ?? "" : waiting(turn));
      note.classList.toggle("bad", Boolean(turn.error));
      if (ended || !acts.childElementCount) fill(acts, ...actions(turn, at));
      drawHalt();
      if (turn.ended && turn.job && !turn.error) pretty(turn, text);
      if (ended) article.setAttribute("aria-label", "Answer, finished");
      if (stuck()) thread.scrollTop = thread.scrollHeight;
    };
    turn.changed = refresh;
    refresh(false);
    return article;
  }

  function stuck() {
    return thread.scrollHeight - thread.scrollTop - thread.clientHeight < 160;
  }

  function actions(turn, at) {
    if (turn.role === "user") {
      return [button("Edit", () => { box.value = turn.text; cut(at); draw(); box.focus(); }, QUIET)];
    }
    if (!turn.ended) return [];
    return [
      button("Retry", () => { cut(at); answer(); }, QUIET),
      button("Copy", copier(() => turn.text), QUIET),
      turn.job && h("a", { href: `#jobs/${turn.job}`, ...QUIET }, "Job"),
    ];
  }

  function drawList() {
    fill(list, conversations.map((one) => h("li", { class: one === talk ? "here" : "" },
      button(one.title, () => { talk = one; draw(); }, { class: "plain" }),
      button("×", () => forget(one), { class: "plain", "aria-label": `Delete ${one.title}` }))));
  }

  function forget(one) {
    one.turns.forEach(stop);
    conversations = conversations.filter((other) => other !== one);
    save();
    talk = conversations[0] ?? create();
    draw();
  }

  function drawSettings() {
    const system = h("textarea", { rows: 2, id: "system", value: talk.system,
      oninput: () => { talk.system = system.value; dirty = true; } });
    fill(settings, h("summary", {}, "Settings"),
      h("label", { for: "system" }, "System prompt"), system,
      h("div", { class: "options" }, OPTIONS.map(([name, min, max, step]) => {
        const field = h("input", { type: "number", id: name, min, max, step, value: talk.options[name] ?? "",
          placeholder: "default", oninput: () => {
            if (field.value === "") delete talk.options[name];
            else talk.options[name] = Number(field.value);
            dirty = true;
          } });
        return h("label", {}, name, field);
      })));
  }

  function draw() {
    drawList();
    drawSettings();
    if (talk.model) model.value = talk.model;
    for (const one of conversations) for (const turn of one.turns) delete turn.changed;
    fill(thread, talk.turns.length ? talk.turns.map(drawTurn)
      : h("div", { class: "hello" }, h("h2", {}, "Ask anything"),
        h("p", {}, "The answer goes on when you reload or lose the network, and waits here for you.")));
    drawHalt();
    thread.scrollTop = thread.scrollHeight;
  }

  get("/models").then(({ models }) => {
    fill(model, models.map((one) => h("option", { value: one.model }, one.model)));
    if (talk.model) model.value = talk.model;
  }).catch((error) => notice(error.message));
  draw();
  return () => { for (const one of conversations) for (const turn of one.turns) delete turn.changed; };
}

/** Copies, and says so on the button. */
function copier(text) {
  return async ({ currentTarget: pressed }) => {
    const word = pressed.textContent;
    try {
      await navigator.clipboard.writeText(text());
      pressed.textContent = "Copied";
    } catch {
      notice("This browser copies on https and on this machine alone.");
    }
    setTimeout(() => { pressed.textContent = word; }, 1500);
  };
}

/** The finished answer as HTML that the server made and sanitized. */
async function pretty(turn, text) {
  try {
    const { html } = await get(`/jobs/${turn.job}?format=html`);
    if (!turn.ended || typeof html !== "string") return;
    const parsed = new DOMParser().parseFromString(html, "text/html");
    fill(text, ...parsed.body.childNodes);
    text.classList.add("html");
    for (const block of text.querySelectorAll("pre")) {
      const code = block.textContent;
      block.before(button("Copy code", copier(() => code), { class: "copy quiet" }));
    }
  } catch {
    // The plain text stays: the job may be gone from the server, the conversation is not.
  }
}

resume();
