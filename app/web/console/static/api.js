// The public API: REST by fetch, and one WebSocket that carries every job that the page follows.

export class Failure extends Error {
  constructor(message, code, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/** Who has logged in, where a key is needed: {name, role, csrf}. The word `csrf` goes with all that changes something. */
let me = {};

async function ask(method, path, body) {
  const options = { method, headers: {} };
  if (method !== "GET" && me.csrf) options.headers["X-CSRF-Token"] = me.csrf;
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Failure("The server does not answer. It is tried again.", "unreachable", 0);
  }
  const data = await answer.json().catch(() => ({}));
  if (answer.status === 401) location.assign("/login"); // the session is over, or was none
  if (!answer.ok) {
    throw new Failure(data.error?.message ?? `HTTP ${answer.status}`, data.error?.code, answer.status);
  }
  return data;
}

export const get = (path) => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);
export const put = (path, body) => ask("PUT", path, body);
export const remove = (path) => ask("DELETE", path);

export async function whoAmI() {
  me = await get("/me");
  return me;
}

/** Whether this one may manage models and workers; others do not see what they may not do. */
export const isOperator = () => me.role === "operator";

/** Ends the session here and everywhere. */
export async function logOut() {
  await post("/logout");
  location.assign("/login");
}

/** A model's address: its slashes and colons stay. */
export const modelPath = (name) => `/models/${encodeURI(name)}`;

/**
 * One socket for everything. `follow` goes on from the last event that was seen, over every break of the network: the
 * server numbers events, so nothing comes twice and nothing is missed.
 */
class Line {
  #socket = null;
  #wait = 250;
  #next = 1;
  #starts = new Map(); // ref -> what to do when the server has accepted
  #jobs = new Map(); // job id -> {seq, listener}
  onstate = () => {};

  /** Submits a chat. `accepted(jobId)` is called once; then the listener gets frames, as for `follow`. */
  generate(body, accepted, listener) {
    const ref = `r${this.#next++}`;
    this.#starts.set(ref, { frame: { ...body, type: "generate", ref }, accepted, listener, sent: false });
    this.#connect();
    this.#sendStarts();
  }

  /** Follows a job behind event `seq`. Returns a function that stops it. */
  follow(jobId, seq, listener) {
    this.#jobs.set(jobId, { seq, listener });
    if (this.#isOpen()) this.#sendFollow(jobId);
    else this.#connect();
    return () => this.#jobs.delete(jobId);
  }

  #isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  #connect() {
    if (this.#socket) return;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/ws`);
    this.#socket = socket;
    socket.onopen = () => {
      this.#wait = 250;
      this.onstate("");
      for (const jobId of this.#jobs.keys()) this.#sendFollow(jobId);
      this.#sendStarts();
    };
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onclose = () => this.#lost();
  }

  #lost() {
    this.#socket = null;
    // What was sent and not yet accepted may be running all the same; sending it again could run it twice.
    for (const [ref, start] of this.#starts) {
      if (!start.sent) continue;
      this.#starts.delete(ref);
      start.listener({ type: "error", error: { message: "The connection broke before the request was accepted." } });
    }
    if (!this.#jobs.size && !this.#starts.size) return;
    this.onstate("Reconnecting …");
    // A socket does not tell why it was refused; where the session is over, this leads to the login.
    setTimeout(() => get("/me").catch(() => {}).then(() => this.#connect()), this.#wait);
    this.#wait = Math.min(this.#wait * 2, 8000);
  }

  #sendStarts() {
    if (!this.#isOpen()) return;
    for (const start of this.#starts.values()) {
      if (start.sent) continue;
      start.sent = true;
      this.#socket.send(JSON.stringify(start.frame));
    }
  }

  #sendFollow(jobId) {
    const after = this.#jobs.get(jobId).seq;
    this.#socket.send(JSON.stringify({ type: "follow", ref: jobId, job_id: jobId, after }));
  }

  #take(frame) {
    const start = this.#starts.get(frame.ref);
    if (start) {
      if (frame.type === "accepted") {
        this.#starts.delete(frame.ref);
        this.#jobs.set(frame.job_id, { seq: 0, listener: start.listener });
        start.accepted(frame.job_id);
      } else if (frame.type === "error" && !frame.job_id) {
        this.#starts.delete(frame.ref);
        start.listener(frame);
      }
      return;
    }
    const job = this.#jobs.get(frame.job_id);
    if (!job || frame.type === "accepted") return;
    if (frame.seq != null) {
      if (frame.seq <= job.seq) return;
      job.seq = frame.seq;
    }
    if (frame.type === "done" || (frame.type === "error" && frame.error?.code !== "slow_consumer")) {
      this.#jobs.delete(frame.job_id);
    }
    if (frame.type === "error" && frame.error?.code === "slow_consumer") this.#sendFollow(frame.job_id);
    else job.listener(frame);
  }
}

export const line = new Line();
