// Jobs: everything that was accepted, a page at a time, and each one whole.

import { get, line, post, remove } from "./api.js";
import { attempt, bar, button, bytes, fill, h, seconds, table, when } from "./dom.js";

const STATES = ["queued", "running", "succeeded", "failed", "cancelled", "timed_out"];
const OVER = new Set(STATES.slice(2));

export function show(root, id) {
  return id ? showOne(root, id) : showAll(root);
}

function badge(status) {
  return h("span", { class: `badge ${status}` }, status.replace("_", " "));
}

function took(job) {
  if (!job.finished_at) return "";
  return seconds((new Date(job.finished_at) - new Date(job.created_at)) / 1000);
}

function showAll(root) {
  const status = choice("status", ["", ...STATES]);
  const kind = choice("kind", ["", "generate", "pull", "embed"]);
  const model = h("input", { id: "jobs-model", placeholder: "any", onchange: restart });
  const group = h("input", { id: "jobs-group", placeholder: "any", onchange: restart });
  const list = h("div", {});
  const summary = h("div", { "aria-live": "polite" });
  const more = button("Older", () => { before = next; pages += 1; draw(); });
  const newest = button("Newest", restart);
  let before = "";
  let next = null;
  let pages = 0;

  function choice(name, values) {
    return h("select", { id: `jobs-${name}`, onchange: restart },
      values.map((value) => h("option", { value }, value ? value.replace("_", " ") : "any")));
  }

  function restart() {
    before = "";
    pages = 0;
    draw();
  }

  function field(label, control) {
    return h("label", { for: control.id }, label, control);
  }

  async function draw() {
    const query = new URLSearchParams({ limit: 50 });
    const wanted = { status: status.value, kind: kind.value, model: model.value, group: group.value, before };
    for (const [name, value] of Object.entries(wanted)) if (value) query.set(name, value);
    const answer = await attempt(() => get(`/jobs?${query}`));
    if (!answer || !root.isConnected) return;
    next = answer.next;
    more.disabled = !next;
    newest.disabled = !pages;
    fill(list, table("Jobs, newest first", ["Job", "Kind", "Model", "State", "Created", "Took", "Tokens", ""],
      answer.jobs.map((job) => [
        h("a", { href: `#jobs/${job.id}`, class: "id" }, job.id.slice(0, 13)), job.kind ?? "pull", job.model, badge(job.status),
        when(job.created_at), took(job), job.eval_count || bytes(job.downloaded_bytes) || "",
        OVER.has(job.status) ? "" : button("Cancel", () => attempt(() => remove(`/jobs/${job.id}`)).then(draw),
          { "aria-label": `Cancel job ${job.id}` }),
      ]), "No jobs match."));
    await drawGroup();
  }

  async function drawGroup() {
    if (!group.value) { fill(summary); return; }
    const counts = await get(`/groups/${encodeURIComponent(group.value)}`).catch(() => null);
    if (!counts) { fill(summary); return; }
    const done = counts.total - counts.open;
    fill(summary, h("p", { class: "group" }, bar(done / counts.total, "Progress of the group"),
      `${done} of ${counts.total} ended, ${counts.failed} not well `,
      counts.open > 0 && button("Cancel the group", () => attempt(() => remove(`/groups/${encodeURIComponent(group.value)}`)).then(draw)),
      group.value.startsWith("batch_") && h("a", { href: `/v1/files/file-output-${group.value}/content`, download: `${group.value}.jsonl` }, "Download results")));
  }

  fill(root, h("h1", {}, "Jobs"),
    h("div", { class: "row filters" }, field("State", status), field("Kind", kind), field("Model", model), field("Group", group)),
    summary, list, h("div", { class: "row" }, newest, more));
  draw();
  const timer = setInterval(() => { if (!pages) draw(); }, 3000);
  return () => clearInterval(timer);
}

function showOne(root, id) {
  const facts = h("div", {});
  const text = h("div", { class: "text output" });
  let stop = () => {};

  async function draw() {
    const job = await attempt(() => get(`/jobs/${id}`));
    if (!job || !root.isConnected) return;
    fill(facts, about(job));
    if (OVER.has(job.status)) text.textContent = job.text ?? "";
    else live(job);
  }

  function live(job) {
    stop();
    text.textContent = "";
    stop = line.follow(id, 0, (frame) => {
      if (frame.type === "token") text.textContent += frame.text;
      else if (frame.type !== "progress") draw();
    });
    return job;
  }

  function about(job) {
    const rows = [
      ["State", badge(job.status)], ["Model", job.model], ["Worker", job.worker], ["Priority", job.priority],
      ["Attempt", job.attempt], ["Losses", job.losses || null],
      ["Queue", job.position != null ? `position ${job.position}, about ${seconds(job.estimated_wait_seconds)}` : null],
      ["Tokens", job.eval_count ? `${job.prompt_eval_count} in, ${job.eval_count} out` : null],
      ["Speed", job.eval_duration ? `${(job.eval_count / job.eval_duration * 1e9).toFixed(1)} tokens/s` : null],
      ["Bytes", job.total_bytes ? `${bytes(job.downloaded_bytes)} of ${bytes(job.total_bytes)}` : null],
      ["Ended by", job.done_reason || null],
    ].filter(([, value]) => value != null && value !== "");
    const error = job.error && (job.error.message ?? job.error);
    return h("div", {},
      h("div", { class: "acts" },
        !OVER.has(job.status) && button("Cancel", () => attempt(() => remove(`/jobs/${id}`)).then(draw)),
        OVER.has(job.status) && job.request?.messages && button("Run again", () => again(job))),
      error && h("p", { class: "note bad" }, error),
      h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      h("h2", {}, "Timeline"), timeline(job),
      job.request?.messages && h("details", {}, h("summary", {}, "Request"), h("pre", {}, JSON.stringify(job.request, null, 2))));
  }

  function timeline(job) {
    const steps = [["created", job.created_at], ["started", job.started_at], [job.status, job.finished_at]];
    return h("ol", { class: "timeline" }, steps.filter(([, at]) => at).map(([name, at], index) => h("li", {},
      `${when(at)} — ${name.replace("_", " ")}`,
      index > 0 && ` after ${seconds((new Date(at) - new Date(job.created_at)) / 1000)}`)));
  }

  async function again(job) {
    const { sampling, messages, n } = job.request;
    const settings = Object.fromEntries(Object.entries(sampling).filter(([, value]) => value !== null));
    const made = await attempt(() => post("/jobs", { model: job.model, messages, n, ...settings }));
    if (made) location.hash = `#jobs/${made.id}`;
  }

  fill(root, h("p", {}, h("a", { href: "#jobs" }, "← All jobs")), h("h1", { class: "id" }, id), facts, h("h2", {}, "Output"), text);
  draw();
  return () => stop();
}
