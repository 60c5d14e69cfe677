// Notifications of the browser: a run that goes on while its page is hidden, or while another run is on the screen,
// says when it has ended or needs attention. Promises: each end is shown once; nothing is asked before the person has
// switched it on; a hidden page asks seldom; a browser that does not allow it is said so. The server's words are shown
// as text.

const VISIBLE_MS = 5000;
const HIDDEN_MS = 15000;
const IDLE_MS = 60000;
const STORE = "gemma-ft-tell-ends";
const INSTEAD = "An ntfy topic or a webhook works everywhere: see Review on the Create tab.";

let ask = null;
let on = false;
let problem = "";
let since = null;
let began = 0;
let asking = false;
let timer;
const told = new Set();
const buttons = new Set();

function remembered() {
  try {
    return localStorage.getItem(STORE) === "yes";
  } catch {
    return false;
  }
}

function remember() {
  try {
    localStorage.setItem(STORE, on ? "yes" : "no");
  } catch {
    // A browser that keeps nothing has it on until the page is left.
  }
}

// Why notifications cannot be shown here, or an empty text.
function obstacle() {
  if (!window.isSecureContext) {
    return `Browsers show notifications only for pages that came over https or from this computer. ${INSTEAD}`;
  }
  if (!("Notification" in window)) return `This browser has no notifications. ${INSTEAD}`;
  if (Notification.permission === "denied") {
    const inside = window.self !== window.top;
    return inside
      ? `This page is shown inside another one, where browsers allow no notifications: open it in a tab of its own. ${INSTEAD}`
      : `This browser blocks notifications of this page: allow them in its settings for this site, then press again. ${INSTEAD}`;
  }
  return "";
}

function show(title, body, tag, run) {
  const notification = new Notification(title, { body, tag });
  notification.onclick = () => {
    window.focus();
    if (run) window.gemmaDashboard?.show(run);
    notification.close();
  };
}

function isOnScreen(run) {
  const dashboard = document.querySelector("#dashboard");
  const shown = document.querySelector("#shown-run textarea, #shown-run input");
  return document.visibilityState === "visible" && Boolean(dashboard?.offsetParent) && shown?.value === run;
}

async function look() {
  clearTimeout(timer);
  if (!on || !ask || asking) return;
  asking = true;
  let pause = document.visibilityState === "visible" ? VISIBLE_MS : HIDDEN_MS;
  try {
    const news = await ask({ since });
    if (since === null) began = news.now;
    since = news.now;
    if (!news.active && document.visibilityState !== "visible") pause = IDLE_MS;
    for (const notice of news.notices) tell(notice);
  } catch {
    pause = HIDDEN_MS;
  }
  asking = false;
  if (on) timer = setTimeout(look, pause);
}

function tell(notice) {
  const key = `${notice.run} ${notice.t}`;
  if (notice.t <= began || told.has(key)) return;
  told.add(key);
  if (isOnScreen(notice.run)) return;
  try {
    show(notice.title, notice.message, key, notice.run);
  } catch {
    turnOff(`This browser shows no notifications of pages. ${INSTEAD}`);
  }
}

function turnOff(why = "") {
  on = false;
  problem = why;
  clearTimeout(timer);
  remember();
  draw();
}

async function turnOn() {
  problem = obstacle();
  if (!problem && Notification.permission !== "granted") {
    await Notification.requestPermission();
    problem = obstacle();
    if (!problem && Notification.permission !== "granted") problem = "Nothing was allowed: press again and choose Allow.";
  }
  if (!problem) {
    try {
      show("You will be told here", "When a run ends, fails or needs attention while you look elsewhere.", STORE);
    } catch {
      problem = `This browser shows no notifications of pages. ${INSTEAD}`;
    }
  }
  if (problem) return turnOff(problem);
  on = true;
  since = null;
  remember();
  draw();
  look();
}

function draw() {
  for (const { button, words } of buttons) {
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "You will be told when it ends" : "Tell me when it ends";
    words.textContent = problem || (on ? "Press again to switch it off. Leave this page open." : "");
  }
}

// Begin to watch; `question` asks the server. Called once for a page.
export function watch(question) {
  ask = question;
  const wanted = remembered();
  problem = wanted ? obstacle() : "";
  on = wanted && !problem && Notification.permission === "granted";
  document.addEventListener("visibilitychange", look);
  draw();
  look();
}

// Put the switch into a node.
export function toggle(node) {
  const button = document.createElement("button");
  const words = document.createElement("span");
  button.type = "button";
  button.id = "bell-button";
  words.setAttribute("role", "status");
  button.addEventListener("click", () => (on ? turnOff() : turnOn()));
  node.replaceChildren(button, words);
  buttons.add({ button, words });
  draw();
}
