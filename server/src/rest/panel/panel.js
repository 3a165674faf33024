"use strict";
// Everything shown is put in with textContent: nothing that an app or a commit sent becomes markup.
const el = (id) => document.getElementById(id);
const KEY = "berth-token";
let timer = 0;

async function get(path) {
  const response = await fetch(path, { headers: { Authorization: "Bearer " + sessionStorage.getItem(KEY) } });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error([body.detail || "The daemon answered " + response.status + ".", body.hint].filter(Boolean).join(" "));
    error.status = response.status;
    throw error;
  }
  return body;
}

function cell(row, text, className) {
  const td = row.insertCell();
  td.textContent = text;
  if (className) td.className = className;
  return td;
}

const TONE = { running: "good", live: "good", down: "bad", failed: "bad", rolled_back: "bad", degraded: "mid" };

function showApp(app) {
  const row = el("apps").insertRow();
  cell(row, app.name);
  cell(row, app.state, TONE[app.state]);
  cell(row, app.live || "–");
  const latest = app.latest;
  cell(row, latest ? latest.deployment + " " + latest.state : "–", latest && TONE[latest.state]);
  const td = cell(row, "");
  if (/^https?:\/\//.test(app.url)) {
    const a = document.createElement("a");
    a.href = app.url;
    a.rel = "noreferrer";
    a.textContent = app.url;
    td.append(a);
  }
}

async function allApps() {
  const apps = [];
  let cursor = "";
  do {
    const page = await get("/v1/apps?limit=100" + (cursor && "&cursor=" + encodeURIComponent(cursor)));
    apps.push(...page.apps);
    cursor = page.next_cursor || "";
  } while (cursor && apps.length < 1000);
  return apps;
}

async function refresh() {
  clearTimeout(timer);
  try {
    const [status, apps] = await Promise.all([get("/v1/platform"), allApps()]);
    el("login").hidden = true;
    el("status").hidden = false;
    el("error").hidden = true;
    const docker = status.docker.available ? "Docker " + (status.docker.version || "") : "without Docker";
    el("health").textContent = (status.healthy ? "All is well" : "Needs attention") + " · Berth " + status.version + " · " + docker;
    el("health").className = status.healthy ? "good" : "bad";
    el("attention").replaceChildren(...status.attention.map((text) => {
      const li = document.createElement("li");
      li.textContent = text;
      return li;
    }));
    el("apps").replaceChildren();
    apps.forEach(showApp);
    el("empty").hidden = apps.length > 0;
    el("updated").textContent = "As of " + new Date().toLocaleTimeString() + ".";
  } catch (error) {
    if (error.status === 401) forget();
    el("error").textContent = error.status ? error.message : "The daemon does not answer. What is shown is old.";
    el("error").hidden = false;
  }
  if (sessionStorage.getItem(KEY)) timer = setTimeout(refresh, 5000);
}

function forget() {
  clearTimeout(timer);
  sessionStorage.removeItem(KEY);
  el("status").hidden = true;
  el("login").hidden = false;
}

document.addEventListener("DOMContentLoaded", () => {
  el("login").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, el("token").value.trim());
    el("token").value = "";
    refresh();
  });
  el("logout").addEventListener("click", forget);
  if (sessionStorage.getItem(KEY)) refresh();
});
