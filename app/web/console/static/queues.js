// Queues: workers and their devices, what waits where and for how long.

import { get } from "./api.js";
import { bar, bytes, chart, fill, h, notice, seconds, table } from "./dom.js";

const KEPT = 60;
const history = { finished: [], waited: [] };
let last = null;

export function show(root) {
  const charts = h("div", { class: "charts" });
  const workers = h("div", {});
  const queues = h("div", {});
  const stuck = h("div", { "aria-live": "polite" });
  const links = h("p", { class: "note" });

  fill(root, h("h1", {}, "Queues"), stuck, charts, queues, h("h2", {}, "Workers"), workers, links);

  async function draw() {
    try {
      const [status, held, depth] = await Promise.all([get("/status"), get("/workers"), get("/queues")]);
      if (!root.isConnected) return;
      fill(stuck, status.reasons.map((reason) => h("p", { class: "note bad" }, reason)));
      drawCharts(depth);
      drawQueues(depth.queues);
      drawWorkers(held.workers);
      fill(links, depth.flower_url && [h("a", { href: depth.flower_url }, "Flower"),
        " shows each task as Celery sees it: the window of the queue that is in the broker."]);
    } catch (error) {
      notice(error.message);
    }
  }

  function drawCharts(depth) {
    if (last && depth.at > last.at) {
      const span = depth.at - last.at;
      remember(history.finished, Math.max(0, depth.finished - last.finished) / span);
      remember(history.waited, depth.oldest_wait_seconds ?? 0);
    }
    last = depth;
    fill(charts, pane("Jobs ended per second", history.finished, (value) => value.toFixed(1)),
      pane("Longest wait in the queue", history.waited, seconds));
  }

  function remember(values, value) {
    values.push(value);
    if (values.length > KEPT) values.shift();
  }

  function pane(label, values, format) {
    const now = values.at(-1) ?? 0;
    return h("figure", {}, h("figcaption", {}, `${label}: ${format(now)}`), chart(values.length ? values : [0], `${label}, now ${format(now)}`));
  }

  function drawQueues(list) {
    fill(queues, table("The whole queue, by model and priority (0 is the most urgent)",
      ["Model", "Priority", "Queued", "In the broker", "Running", "Longest wait", "Why it waits"],
      list.map((queue) => [queue.model, queue.priority, queue.queued, queue.released, queue.running,
        queue.oldest_wait_seconds != null ? seconds(queue.oldest_wait_seconds) : "", queue.why ?? ""]),
      "Nothing waits and nothing runs."));
  }

  function drawWorkers(list) {
    fill(workers, table("Workers", ["Worker", "Device", "Memory", "Use", "Models"], list.map((worker) => [
      worker.node, worker.device,
      worker.memory_total ? h("span", {}, bar(1 - worker.memory_free / worker.memory_total, `Memory of ${worker.node}`),
        ` ${bytes(worker.memory_total - worker.memory_free)} of ${bytes(worker.memory_total)}`) : "",
      worker.utilization != null ? `${Math.round(worker.utilization)} %` : "",
      h("ul", { class: "plain" },
        worker.models.map((one) => h("li", {}, `${one.model} (${one.backend}): ${one.running} of ${one.slots} slots`)),
        worker.loading.map((one) => h("li", {}, `${one.model}: loading, ${Math.round(one.progress * 100)} %`))),
    ]), "No worker is alive, so jobs wait. `make status` shows the processes."));
  }

  draw();
  const timer = setInterval(draw, 2000);
  return () => clearInterval(timer);
}
