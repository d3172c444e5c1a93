// The places of the console, by the address behind the #.

import { line, logOut, whoAmI } from "./api.js";
import { attempt, button, fill, h } from "./dom.js";
import * as chat from "./chat.js";
import * as jobs from "./jobs.js";
import * as models from "./models.js";
import * as queues from "./queues.js";

const PLACES = { chat, models, jobs, queues };
let leave = () => {};

function go() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const place = PLACES[name] ? name : "chat";
  for (const link of document.querySelectorAll("body > header nav a")) {
    const here = link.hash === `#${place}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  leave();
  const root = h("div", { class: `place ${place}` });
  fill(document.getElementById("place"), root);
  document.title = `${place[0].toUpperCase()}${place.slice(1)} · Tokenyard`;
  leave = PLACES[place].show(root, rest.join("/")) ?? (() => {});
}

line.onstate = (text) => { document.getElementById("state").textContent = text; };
addEventListener("hashchange", go);

/** Where a key is needed, the page has a session, and a word that goes with what it changes; so this comes first. */
const me = await attempt(whoAmI);
if (me?.csrf) fill(document.getElementById("who"), h("span", {}, `${me.name || "API_KEY"} · ${me.role}`), button("Log out", () => attempt(logOut), { class: "quiet" }));
go();
