/* Forms that call the API. Their words, and where they go, stand in the HTML:

   <main data-with-token="X" data-without-token="Y">  the form or section to begin with
   <form data-method data-path                        the request; its body are the fields
         data-send-token                              and the token of the link
         data-done="T"                                the <template> to show when it is done
         data-then="X"                                and the form or section below it
         data-refused="X">                            that below a refusal; else the form stays
   <input data-show="I">                              shows the characters of the password I
   <span data-when>                                   becomes "in 5 minutes", in the page's `lang`
*/

const TIMEOUT_MS = 30_000;

const main = document.querySelector("main");
const message = document.getElementById("message");
let token = null; // of the link; nothing stores it

/** Take the token out of the address, where the history would keep it; show the first form. */
function start() {
  const address = new URL(location.href);
  token = new URLSearchParams(address.hash.slice(1)).get("token");
  address.hash = "";
  history.replaceState(null, "", address);
  message.replaceChildren();
  show(token ? main.dataset.withToken : main.dataset.withoutToken);
}

/** Show the form or section with this id, and no other. */
function show(id) {
  for (const part of main.querySelectorAll("form, section")) {
    part.hidden = part.id !== id;
  }
}

/** Show a message, of one kind: "good" or "bad"; tell readers of the screen. */
function say(content, kind) {
  message.className = kind;
  message.replaceChildren(content);
  message.focus();
}

function words(id, seconds) {
  const content = document.getElementById(id).content.cloneNode(true);
  if (seconds > 0) {
    for (const place of content.querySelectorAll("[data-when]")) {
      place.textContent = fromNow(seconds);
    }
  }
  return content;
}

function fromNow(seconds) {
  const [size, unit] = seconds < 120 ? [1, "second"] : seconds < 7200 ? [60, "minute"] : [3600, "hour"];
  const format = new Intl.RelativeTimeFormat(document.documentElement.lang);
  return format.format(Math.ceil(seconds / size), unit);
}

/** Return a text of the server, "must be ...", as a sentence. */
function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function paragraph(text) {
  const element = document.createElement("p");
  element.textContent = text;
  return element;
}

/** Show the errors of fields at these fields. Return whether there are any. */
function mark(form, errors) {
  let first = null;
  for (const field of form.querySelectorAll("[aria-describedby]")) {
    const texts = errors[field.name] ?? [];
    const place = document.getElementById(field.getAttribute("aria-describedby"));
    place.textContent = texts.map(sentence).join(" ");
    place.hidden = texts.length === 0;
    field.setAttribute("aria-invalid", texts.length > 0);
    first ??= texts.length > 0 ? field : null;
  }
  first?.focus(); // with its error, which describes it
  return first !== null;
}

/** Return the body of a request: what was typed, and the token. */
function bodyOf(form) {
  const body = {};
  for (const field of form.querySelectorAll("input[name]")) {
    // Keyboards of phones add a space to a completed word.
    body[field.name] = field.type === "password" ? field.value : field.value.trim();
  }
  return "sendToken" in form.dataset ? { token, ...body } : body;
}

/** Return status, JSON and Retry-After of an answer; the status 0 if there is none. */
async function call(method, path, body) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), TIMEOUT_MS);
  try {
    const response = await fetch(path, {
      method,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: abort.signal,
    });
    const json = await response.json().catch(() => null); // a 204, or a proxy's own page
    const seconds = Number(response.headers.get("Retry-After"));
    return { status: response.status, ok: response.ok, json: json ?? {}, seconds };
  } catch {
    return { status: 0 };
  } finally {
    clearTimeout(timer);
  }
}

async function submit(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  if (button.disabled) {
    return;
  }
  for (const box of form.querySelectorAll("[data-show]")) {
    box.checked = false;
    reveal(box); // browsers remember what was typed as plain text
  }
  button.disabled = true;
  const answer = await call(form.dataset.method, form.dataset.path, bodyOf(form));
  button.disabled = false;
  report(form, answer);
}

function report(form, { status, ok, json, seconds }) {
  message.replaceChildren();
  if (mark(form, json?.errors ?? {})) {
    return;
  }
  if (ok) {
    form.reset();
    show(form.dataset.then);
    say(words(form.dataset.done), "good");
  } else if (status === 400 && json.message) {
    form.reset();
    show(form.dataset.refused ?? form.id);
    say(paragraph(sentence(json.message)), "bad");
  } else {
    const reasons = { 0: "unreachable", 429: "limited", 503: "busy" };
    say(words(reasons[status] ?? "failed", seconds), "bad");
  }
}

/** Show or hide the characters of a password. */
function reveal(box) {
  document.getElementById(box.dataset.show).type = box.checked ? "text" : "password";
}

document.addEventListener("submit", submit);
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-show]")) {
    reveal(event.target);
  }
});
// After a reload, Firefox puts back what was ticked or disabled.
document.querySelectorAll("[data-show]").forEach(reveal);
document.querySelectorAll("button").forEach((button) => (button.disabled = false));

// Another link, opened in the tab of this page.
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) {
    start();
  }
});
start();
