// Queues: what waits where and for how long, and the workers with their devices.

import { get, isOperator } from "./api.js";
import { bar, bytes, chart, fill, h, head, seconds, table } from "./dom.js";

const KEPT = 60;
const history = { waiting: [], running: [], ended: [], wait: [] };
let last = null;

export function show(root) {
  const tiles = h("div", { class: "tiles" });
  const workers = h("div", { class: "workers" });
  const queues = h("div", {});
  const stuck = h("div", { "aria-live": "polite" });
  const links = h("p", { class: "note" });

  fill(root, head("Queues", isOperator() ? "The whole queue, as the database has it." : "Your own jobs in the queue, as the database has it."), stuck, tiles, queues, isOperator() && h("h2", {}, "Workers"), workers, links);

  async function draw() {
    try {
      const asked = isOperator() ? [get("/queues"), get("/status"), get("/workers")] : [get("/queues")];
      const [depth, status = { reasons: [] }, held = { workers: [] }] = await Promise.all(asked);
      if (!root.isConnected) return;
      fill(stuck, status.reasons.map((reason) => h("p", { class: "alert" }, reason)));
      drawTiles(depth);
      drawQueues(depth.queues);
      fill(workers, held.workers.map(worker),
        isOperator() && !held.workers.length && h("p", { class: "empty card" }, "No worker is alive, so jobs wait. `make status` shows the processes."));
      fill(links, depth.flower_url && [h("a", { href: depth.flower_url }, "Flower"),
        " shows each task as Celery sees it: the window of the queue that is in the broker."]);
    } catch (error) {
      if (root.isConnected) fill(stuck, h("p", { class: "alert" }, error.message));
    }
  }

  function drawTiles(depth) {
    const sum = (name) => depth.queues.reduce((total, queue) => total + queue[name], 0);
    if (last && depth.at > last.at) {
      remember("waiting", sum("queued"));
      remember("running", sum("running"));
      remember("ended", Math.max(0, depth.finished - last.finished) / (depth.at - last.at));
      remember("wait", depth.oldest_wait_seconds ?? 0);
    }
    last = depth;
    fill(tiles, tile("Waiting", "waiting", String), tile("Running", "running", String),
      tile("Ended a second", "ended", (value) => value.toFixed(1)), tile("Longest wait", "wait", (value) => (value ? seconds(value) : "none")));
  }

  function remember(name, value) {
    history[name].push(value);
    if (history[name].length > KEPT) history[name].shift();
  }

  function tile(label, name, format) {
    const now = format(history[name].at(-1) ?? 0);
    return h("figure", { class: "card tile" }, h("figcaption", {}, label), h("strong", {}, now),
      chart(history[name], `${label} over the last two minutes, now ${now}`, Math.max(history[name].length, 15)));
  }

  function drawQueues(list) {
    fill(queues, table("By model and priority (0 is the most urgent)",
      ["Model", "#Priority", "#Waiting", "#In the broker", "#Running", "#Longest wait", "Why it waits"],
      list.map((queue) => [h("strong", {}, queue.model), queue.priority, queue.queued, queue.released, queue.running,
        queue.oldest_wait_seconds != null ? seconds(queue.oldest_wait_seconds) : "", queue.why ?? ""]),
      "Nothing waits and nothing runs."));
  }

  function worker(one) {
    const used = one.memory_total ? one.memory_total - one.memory_free : 0;
    const state = [one.device, one.utilization != null && `${Math.round(one.utilization * 100)} % busy`,
      one.temperature != null && `${Math.round(one.temperature)} °C`].filter(Boolean).join(" · ");
    return h("section", { class: "card worker" },
      h("div", {}, h("h3", {}, one.node), h("span", { class: "note" }, state)),
      one.memory_total && meter("Memory", used / one.memory_total, `${bytes(used)} of ${bytes(one.memory_total)}`, one.node),
      one.models.map((model) => meter(`${model.model} · ${model.backend}`, model.slots ? model.running / model.slots : 0,
        model.leaving ? "leaving" : slots(model), one.node)),
      one.loading.map((model) => meter(`${model.model} is being loaded`, model.progress, `${Math.round(model.progress * 100)} %`, one.node)),
      !one.models.length && !one.loading.length && h("p", { class: "note" }, "No model in memory."));
  }

  function slots({ running, slots: all }) {
    return `${Math.min(running, all)} of ${all} slots${running > all ? `, ${running - all} next` : ""}`;
  }

  function meter(name, share, told, node) {
    return h("div", { class: "meter" }, h("span", {}, name), h("span", {}, told),
      bar(share, `${name} on ${node}`, name === "Memory" && share > 0.9 ? "high" : ""));
  }

  draw();
  const timer = setInterval(draw, 2000);
  return () => clearInterval(timer);
}
