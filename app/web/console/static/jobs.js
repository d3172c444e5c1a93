// Jobs: everything that was accepted, a page at a time; groups and batches; each job whole.

import { get, line, post, remove } from "./api.js";
import { attempt, badge, bar, button, bytes, fill, h, head, question, seconds, table, when } from "./dom.js";

const STATES = ["queued", "running", "succeeded", "failed", "cancelled", "timed_out"];
const OVER = new Set(STATES.slice(2));

/** `#jobs`, `#jobs/groups`, `#jobs/group/NAME`, for operators `#jobs/group/NAME/TENANT`, or `#jobs/ID`. */
export function show(root, rest) {
  if (rest === "groups") return showGroups(root);
  if (rest.startsWith("group/")) return showAll(root, ...rest.slice(6).split("/").map(decodeURIComponent));
  return rest ? showOne(root, rest) : showAll(root);
}

function tabs(here) {
  const tab = (text, to) => h("a", { href: to, "aria-current": text === here && "page" }, text);
  return h("nav", { class: "tabs", "aria-label": "Kinds of lists" }, tab("All jobs", "#jobs"), tab("Groups and batches", "#jobs/groups"));
}

function took(job) {
  if (!job.finished_at) return "";
  return seconds((new Date(job.finished_at) - new Date(job.created_at)) / 1000);
}

function showAll(root, named = "", tenant = "") {
  const status = choice("status", ["", ...STATES]);
  const kind = choice("kind", ["", "generate", "pull", "embed"]);
  const model = h("input", { id: "jobs-model", placeholder: "any", onchange: restart });
  const group = h("input", { id: "jobs-group", placeholder: "any", value: named, onchange: restart });
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
    fill(list, table("Newest first", ["Job", "State", "Kind", "Model", "Created", "#Took", "#Output", ""],
      answer.jobs.map((job) => [
        h("a", { href: `#jobs/${job.id}`, class: "id", title: job.id }, `…${job.id.slice(-10)}`), badge(job.status), job.kind ?? "pull",
        job.model, when(job.created_at), took(job), output(job),
        !OVER.has(job.status) && h("div", { class: "acts" },
          button("Cancel", () => attempt(() => remove(`/jobs/${job.id}`)).then(draw), { "aria-label": `Cancel job ${job.id}` })),
      ].map((cell) => cell || "")), "No jobs match."));
    await drawGroup();
  }

  function output(job) {
    if (job.downloaded_bytes) return bytes(job.downloaded_bytes);
    return job.eval_count ? `${job.eval_count} tokens` : "";
  }

  async function drawGroup() {
    const counts = group.value && await get(groupPath(group.value, tenant)).catch(() => null);
    fill(summary, counts && h("div", { class: "group card row" }, h("strong", {}, counts.group), standing(counts), groupActs({ ...counts, tenant }, draw)));
  }

  fill(root, head("Jobs", "Everything that was asked for, and what came of it.", tabs("All jobs")),
    h("div", { class: "row filters" }, field("State", status), field("Kind", kind), field("Model", model), field("Group", group)),
    summary, list, h("div", { class: "row" }, newest, more));
  draw();
  const timer = setInterval(() => { if (!pages) draw(); }, 3000);
  return () => clearInterval(timer);
}

function standing(counts) {
  const done = counts.total - counts.open;
  return h("span", {}, bar(done / counts.total, `Progress of ${counts.group}`), ` ${done} of ${counts.total} ended`);
}

/** Names of groups are each tenant's own; only operators see others'. */
function groupPath(group, tenant, rest = "") {
  return `/groups/${encodeURIComponent(group)}${rest}${tenant ? `?tenant=${encodeURIComponent(tenant)}` : ""}`;
}

function isBatch(group) {
  return group.startsWith("batch_");
}

/** What can be done with a group, and what it gives to download. */
function groupActs({ group, tenant, completed, failed, open }, redraw) {
  const download = (text, path, name) => h("a", { class: "button", href: path, download: name, "aria-label": `${text} of ${group}` }, text);
  const file = (kind) => `/v1/files/file-${kind}-${group}/content`;
  const cancel = async () => {
    const sure = await question(`Cancel ${open} jobs?`, { note: `Those of ${group} that have not ended.`, yes: "Cancel them", danger: true });
    if (!sure) return;
    await attempt(() => (isBatch(group) ? post(`/v1/batches/${group}/cancel`) : remove(groupPath(group, tenant))));
    redraw();
  };
  return h("div", { class: "acts" },
    open > 0 && button("Cancel", cancel, { "aria-label": `Cancel ${group}` }),
    isBatch(group)
      ? [completed > 0 && download("Results", file("output"), `${group}.jsonl`), failed > 0 && download("Errors", file("errors"), `${group}-errors.jsonl`)]
      : completed + failed > 0 && download("Results", groupPath(group, tenant, "/results"), `${group}.jsonl`));
}

function showGroups(root) {
  const list = h("div", {});

  async function draw() {
    const answer = await attempt(() => get("/groups"));
    if (!answer || !root.isConnected) return;
    fill(list, table("The fifty that jobs came to last", ["Name", "Kind", "Created", "Progress", "#Well", "#Not well", ""],
      answer.groups.map((one) => [
        h("div", {}, h("a", { href: `#jobs/group/${encodeURIComponent(one.group)}${one.tenant && `/${encodeURIComponent(one.tenant)}`}` }, one.group),
          one.tenant && h("div", { class: "note" }, one.tenant)), isBatch(one.group) ? "batch" : "group",
        when(one.created_at), standing(one), one.completed, one.failed, groupActs(one, draw),
      ]), "No groups yet. POST /jobs with a line a job, or POST /v1/batches, makes one."));
  }

  fill(root, head("Groups and batches", "Jobs that were sent together.", tabs("Groups and batches")), list);
  draw();
  const timer = setInterval(draw, 5000);
  return () => clearInterval(timer);
}

function showOne(root, id) {
  const facts = h("div", {});
  const top = h("div", {});
  const text = h("div", { class: "text" }, "");
  let stop = () => {};

  async function draw() {
    const job = await attempt(() => get(`/jobs/${id}`));
    if (!job || !root.isConnected) return;
    fill(top, head(h("span", {}, job.kind === "embed" ? "Embedding" : job.kind ? "Generation" : "Pull", " ", badge(job.status)),
      h("span", { class: "id" }, id), acts(job)), problem(job));
    fill(facts, about(job), h("div", { class: "card" }, h("h2", {}, "Timeline"), timeline(job)));
    fill(asked, request(job));
    if (OVER.has(job.status)) text.textContent = job.text || (job.local_path ? "The model is here." : "Nothing was said.");
    else live(job);
  }

  function live(job) {
    stop();
    text.textContent = "";
    stop = line.follow(id, 0, (frame) => {
      if (frame.type === "token") text.textContent += frame.text;
      else if (frame.type === "progress") text.textContent = progress(frame, job);
      else draw();
    });
  }

  function progress(frame, job) {
    if (frame.total_bytes) return `${bytes(frame.downloaded_bytes)} of ${bytes(frame.total_bytes)}`;
    return job.position != null ? "It waits in the queue." : "";
  }

  function acts(job) {
    return h("div", { class: "acts" },
      !OVER.has(job.status) && button("Cancel", () => attempt(() => remove(`/jobs/${id}`)).then(draw), { class: "danger" }),
      OVER.has(job.status) && job.request?.messages && button("Run again", () => again(job), { class: "primary" }));
  }

  function problem(job) {
    const message = job.error && (job.error.message ?? job.error);
    return message && h("p", { class: "alert" }, message, job.error.code && h("span", { class: "note" }, ` (${job.error.code})`));
  }

  function about(job) {
    const rows = [
      ["Model", job.model], ["Worker", job.worker], ["Priority", job.priority], ["Attempts", job.attempt || null],
      ["Workers lost", job.losses || null],
      ["Queue", job.position != null ? `position ${job.position}, about ${seconds(job.estimated_wait_seconds)}` : null],
      ["Tokens", job.eval_count ? `${job.prompt_eval_count} in, ${job.eval_count} out` : null],
      ["Speed", job.eval_duration ? `${(job.eval_count / job.eval_duration * 1e9).toFixed(1)} tokens/s` : null],
      ["Bytes", job.total_bytes ? `${bytes(job.downloaded_bytes)} of ${bytes(job.total_bytes)}` : null],
      ["Ended by", job.done_reason || null],
    ].filter(([, value]) => value != null && value !== "");
    return h("div", { class: "card" }, h("h2", {}, "Facts"), h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
  }

  /** Accepted, first claimed, workers that were lost, and the end. */
  function timeline(job) {
    const since = (at) => ` after ${seconds((new Date(at) - new Date(job.created_at)) / 1000)}`;
    const step = (name, at, after) => at && h("li", {}, h("strong", {}, name), h("div", { class: "note" }, when(at), after && since(at)));
    return h("ol", { class: "timeline" },
      step("Accepted", job.created_at), step("Started", job.started_at, true),
      job.losses > 0 && h("li", { class: "lost" }, h("strong", {}, `${job.losses} × lost its worker`), h("div", { class: "note" }, `went on in attempt ${job.attempt}`)),
      step(job.status[0].toUpperCase() + job.status.slice(1).replace("_", " "), job.finished_at, true));
  }

  function request(job) {
    const messages = job.request?.messages ?? [];
    return [messages.map((one) => h("div", { class: "said" }, h("h2", {}, one.role), h("div", { class: "text" }, one.content))),
      job.request && h("details", {}, h("summary", {}, "Request"), h("pre", { tabindex: 0 }, JSON.stringify(job.request, null, 2)))];
  }

  async function again(job) {
    const { sampling, messages, n } = job.request;
    const settings = Object.fromEntries(Object.entries(sampling).filter(([, value]) => value !== null));
    const made = await attempt(() => post("/jobs", { model: job.model, messages, n, ...settings }));
    if (made) location.hash = `#jobs/${made.id}`;
  }

  const asked = h("div", { class: "card" });
  fill(root, h("p", { class: "note" }, h("a", { href: "#jobs" }, "← All jobs")), top,
    h("div", { class: "two" }, h("div", {}, h("div", { class: "card said" }, h("h2", {}, "Output"), text), asked), h("div", {}, facts)));
  draw();
  return () => stop();
}
