"""The local page's script. Names reach the page as text alone, never as markup."""

SCRIPT = """"use strict";
const at = (id) => document.getElementById(id);
const main = at("main"), pictures = main.dataset.pictures === "yes", limit = Number(main.dataset.bytes);
let asked = 0, preview = null;

const make = (name, kind, text) => {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
};

const fail = (sentence) => {
  asked += 1;  // an answer that is still on its way is of no use any more
  at("answer").hidden = true;
  at("status").textContent = "";
  at("error").textContent = sentence;
  at("error").scrollIntoView({block: "nearest"});
};

const photograph = (source, words) => {
  const image = make("img");
  image.alt = words;
  image.addEventListener("error", () => image.replaceWith(make("span", "blank", "no picture")), {once: true});
  image.src = source;
  return image;
};

const bits = (count, of) => `${count} of ${of} bits ${count === 1 ? "differs" : "differ"}`;

const card = (row, of) => {
  const item = make("li"), track = make("span", "track"), fill = make("span", "fill"), name = row.name || "no name";
  if (pictures) item.append(photograph(`/photograph/${row.row}`, `${name}, ${row.key}`));
  track.ariaHidden = "true";
  fill.style.width = `${100 * (1 - row.hamming / of)}%`;
  track.append(fill);
  const more = make("button", "more", "More like this");
  more.type = "button";
  more.ariaLabel = `More like this: ${name}, ${row.key}`;
  more.addEventListener("click", () => ask(`/search?row=${row.row}`));
  item.append(make("p", "name", name), make("p", "key", row.key), track);
  item.append(make("p", "bits", bits(row.hamming, of)), more);
  return item;
};

const show = (answer, file) => {
  const query = at("query"), words = make("p");
  if (preview) URL.revokeObjectURL(preview);
  preview = file ? URL.createObjectURL(file) : null;
  const name = answer.query.name;
  words.append(make("strong", "", file ? file.name : answer.query.key), name ? `, ${name}` : "");
  query.replaceChildren();
  if (preview) query.append(photograph(preview, "Your photograph"));
  else if (pictures && answer.query.row !== null)
    query.append(photograph(`/photograph/${answer.query.row}`, `The query, ${name || "no name"}`));
  query.append(words);
  at("found").replaceChildren(...answer.found.map((row) => card(row, answer.bits)));
  const most = answer.most ? ` ${answer.most.count} of them: ${answer.most.name}.` : "";
  const all = answer.photographs.toLocaleString("en"), time = answer.milliseconds;
  at("status").textContent = `The ${answer.found.length} nearest of ${all} photographs, found in ${time} ms.${most}`;
};

const ask = async (address, file) => {
  const mine = ++asked;
  at("error").textContent = "";
  at("status").textContent = "Searching\\u2026";
  at("answer").ariaBusy = "true";
  let answer;
  try {
    const response = await fetch(address, file ? {method: "POST", body: file} : {});
    answer = await response.json();
  } catch {
    answer = {error: "The server does not answer: is it still running?"};
  }
  if (mine !== asked) return;  // something else was asked for meanwhile
  if (answer.error) {
    fail(answer.error);
    return;
  }
  at("answer").removeAttribute("aria-busy");
  at("answer").hidden = false;
  show(answer, file);
  at("heading").focus();
};

const send = (file) => {
  if (!file) return;
  if (file.size > limit) fail(`This file is larger than ${limit / 1048576} MB: make it smaller.`);
  else ask("/search", file);
};

at("by-key").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = at("key").value.trim();
  if (key) ask(`/search?key=${encodeURIComponent(key)}`);
  else fail("Type the key of a photograph.");
});
if (at("by-text")) at("by-text").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (text) ask(`/search?text=${encodeURIComponent(text)}`);
  else fail("Say in words what you are looking for.");
});
at("example").addEventListener("click", () => {
  at("key").value = at("example").textContent;
  at("by-key").requestSubmit();
});

const drop = at("drop"), field = at("photograph");
if (drop) {
  field.addEventListener("change", () => send(field.files[0]));
  // The whole page takes a photograph: one that misses the box must not replace the page.
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    send(event.dataTransfer.files[0]);
  });
}
"""
