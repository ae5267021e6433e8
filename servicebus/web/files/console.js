"use strict";
// What the pages do by themselves; all else is htmx's.
(() => {
  // A page says that it is old once a part of it is not answered any more, or by an error.
  const old = document.getElementById("old");
  const unanswered = new Map();
  const tell = (part, problem) => {
    if (problem) unanswered.set(part, problem); else unanswered.delete(part);
    const [text] = unanswered.values();
    old.hidden = !text;
    if (text && old.textContent !== text) old.textContent = text;
  };
  const partOf = (detail) => detail.elt.id;
  for (const event of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(event, ({ detail }) => tell(partOf(detail), "The console does not answer. What this page shows may be old."));
  }
  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    const status = detail.xhr ? detail.xhr.status : 0;
    if (!status) return;
    const isError = status >= 400 && detail.requestConfig.verb === "get";
    tell(partOf(detail), isError && `The console answers with the error ${status}. What this page shows may be old: load it again.`);
  });
  // What was asked for by a form shows its error where the answer would stand.
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    if (detail.xhr.status >= 400 && detail.requestConfig.verb === "post") detail.shouldSwap = true;
  });
  // A part that renews itself is left alone while something in it is selected or filled in. It keeps what was opened, and how
  // far it was moved sideways.
  const isInUse = (part) => {
    const selected = document.getSelection();
    if (selected && !selected.isCollapsed && part.contains(selected.anchorNode)) return true;
    return part.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
  };
  const nameOf = (each) => {
    const group = each.closest("section[aria-labelledby]");
    const heading = group && document.getElementById(group.getAttribute("aria-labelledby"));
    const own = each.getAttribute("aria-labelledby") || each.getAttribute("aria-label") || each.firstElementChild.textContent;
    return `${heading ? heading.textContent : ""}: ${own}`;
  };
  const kept = new Map();
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    const part = detail.target;
    if (detail.requestConfig.verb !== "get" || part.id === "log") return;
    if (detail.requestConfig.elt === part && isInUse(part)) { detail.shouldSwap = false; return; }
    kept.clear();
    for (const each of part.querySelectorAll(".scroll, details[open]")) kept.set(nameOf(each), each.scrollLeft);
  });
  document.addEventListener("htmx:afterSwap", () => {
    if (!kept.size) return;
    for (const each of document.querySelectorAll(".scroll, details")) {
      const left = kept.get(nameOf(each));
      if (left === undefined) continue;
      each.scrollLeft = left;
      if (each.matches("details")) each.open = true;
    }
    kept.clear();
  });
  // A log grows at its end, and loses its oldest lines. Paused it is asked for as ever, and shows what came when it goes on.
  const mostLines = 500;
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-pauses]");
    if (button) button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const source = event.detail.requestConfig.elt;
    const button = source && source.id && document.querySelector(`button[data-pauses="${source.id}"]`);
    if (!button) return;
    if (button.getAttribute("aria-pressed") === "true") { event.detail.shouldSwap = false; return; }
    const log = event.detail.target;
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.addEventListener("htmx:afterSettle", () => {
      while (log.childElementCount > mostLines) log.firstElementChild.remove();
      if (isAtEnd) log.scrollTop = log.scrollHeight;
    }, { once: true });
  });
  document.addEventListener("keydown", (event) => {
    const field = document.querySelector("input[type=search]");
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || !field) return;
    if (event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    field.focus();
    field.select();
  });
})();
