// Models: what is here, where it is loaded, what could be pulled.

import { get, isOperator, line, modelPath, post, put, remove } from "./api.js";
import { attempt, badge, bar, button, bytes, fill, h, head, notice, question, seconds, table } from "./dom.js";

const pulls = new Map(); // job id -> {model, frame}

export function show(root) {
  const here = h("div", {});
  const running = h("div", { class: "pulls", "aria-live": "polite" });
  const suggested = h("div", {});
  const name = h("input", { id: "pull-name", placeholder: "owner/name, owner/name:Q4_K_M or a short name", required: true });
  const form = h("form", { class: "row pullform card", onsubmit: (event) => { event.preventDefault(); start(name.value.trim()); } },
    h("label", { for: "pull-name" }, "Pull a model"), name, h("button", { type: "submit", class: "primary" }, "Pull"));

  fill(root, head("Models", "What is on this machine, where it is loaded, and what would fit."), isOperator() && form, running, here, suggested);

  async function start(model) {
    if (!model) return;
    const answer = await attempt(() => post("/pull", { model }));
    if (!answer) return;
    name.value = "";
    watch(answer.job_id, model);
  }

  function watch(job, model) {
    if (pulls.has(job)) return;
    pulls.set(job, { model, frame: {} });
    line.follow(job, 0, (frame) => {
      if (frame.type === "progress") pulls.get(job).frame = frame;
      else {
        pulls.delete(job);
        if (frame.type === "error") notice(frame.error.message);
        else notice(`${model} is here.`, "good");
        draw();
      }
      drawPulls();
    });
    drawPulls();
  }

  function drawPulls() {
    running.classList.toggle("card", pulls.size > 0);
    fill(running, [...pulls].map(([job, { model, frame }]) => h("div", { class: "pull" },
      h("strong", {}, model), bar(frame.progress, `Progress of ${model}`),
      h("span", {}, told(frame)),
      button("Cancel", () => attempt(() => remove(`/jobs/${job}`)), { "aria-label": `Cancel the pull of ${model}` }))));
  }

  function told(frame) {
    if (!frame.total_bytes) return frame.status === "queued" ? "In the queue …" : "Asking the hub …";
    return [
      `${bytes(frame.downloaded_bytes)} of ${bytes(frame.total_bytes)}`,
      frame.bytes_per_second && `${bytes(frame.bytes_per_second)}/s`,
      frame.eta_seconds != null && `${seconds(frame.eta_seconds)} left`,
    ].filter(Boolean).join(" · ");
  }

  function row(model) {
    const path = modelPath(model.model);
    const act = (verb, body) => attempt(() => post(`${path}/${verb}`, body)).then(draw);
    const loading = model.loading?.[0];
    const where = loading ? [bar(loading.progress, `Loading ${model.model}`), h("div", { class: "note" }, loading.worker ? `loading on ${loading.worker}` : "loading")]
      : model.loaded ? [badge("succeeded", "loaded"), h("div", { class: "note" }, [...model.workers, model.backend].join(" · "))]
        : badge("queued", model.state === "missing" ? "files missing" : "on disk");
    const failure = model.failures?.[0];
    return [
      h("div", {}, h("strong", {}, model.model), h("div", {}, model.aliases.map((name) => h("span", { class: "chip" }, name,
        isOperator() && button("×", () => attempt(() => remove(`/aliases/${encodeURI(name)}`)).then(draw), { "aria-label": `Remove the alias ${name}` }))))),
      model.size_bytes ? bytes(model.size_bytes) : "", model.quantization ?? model.dtype ?? "", model.context ?? "",
      h("div", {}, where, model.why && h("div", { class: "note" }, model.why),
        failure && h("div", { class: "note bad" }, failure.message)),
      isOperator() && h("div", { class: "acts" },
        loading ? button("Cancel", () => attempt(() => remove(`${path}/load`)).then(draw))
          : model.loaded ? button("Unload", () => act("unload")) : button("Load", () => act("load")),
        button("Alias", () => alias(model.model)),
        model.local_path && button("Delete", () => drop(model.model), { class: "danger" })),
    ].map((cell) => cell || "");
  }

  async function alias(target) {
    const word = await question("New alias", { label: `A further name for ${target}`, yes: "Add" });
    if (word && await attempt(() => put(`/aliases/${encodeURI(word)}`, { target }))) draw();
  }

  async function drop(model) {
    const sure = await question(`Delete ${model}?`, { note: "Its files go from this machine. It can be pulled again.", yes: "Delete", danger: true });
    if (sure && await attempt(() => remove(modelPath(model)))) draw();
  }

  async function draw() {
    const answer = await attempt(() => get("/models"));
    if (!answer || !root.isConnected) return;
    fill(here, table("Models on this machine", ["Name", "#Size", "Weights", "#Context", "Where", ""], answer.models.map(row),
      "No models yet: pull one above."));
  }

  async function drawSuggested() {
    const answer = await attempt(() => get("/models/suggested"));
    if (!answer) return;
    fill(suggested, table("Suggested", ["Name", "#Parameters", "#Size", "This machine", ""],
      answer.models.map((one) => [
        h("div", {}, h("strong", {}, one.name), h("div", { class: "note" }, one.gguf.model)),
        `${(one.parameters / 1e9).toFixed(1)} B`, bytes(one.gguf.size_bytes), one.gguf.fits ? badge("fits", "fits") : badge("queued", "too large"),
        one.downloaded.length ? h("span", { class: "note" }, "here") : isOperator() && h("div", { class: "acts" }, button("Pull", () => start(one.name), { "aria-label": `Pull ${one.name}` })),
      ].map((cell) => cell || ""))));
  }

  async function findPulls() {
    for (const status of ["running", "queued"]) {
      const answer = await attempt(() => get(`/jobs?kind=pull&status=${status}`));
      for (const job of answer?.jobs ?? []) watch(job.id, job.model);
    }
  }

  draw();
  drawSuggested();
  findPulls();
  drawPulls();
  const timer = setInterval(draw, 3000);
  return () => clearInterval(timer);
}
