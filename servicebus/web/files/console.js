"use strict";
// What the pages do by themselves; all else is htmx's. A page says that it is old once the console does not answer.
(() => {
  const offline = document.getElementById("offline");
  const failed = () => { offline.hidden = false; };
  for (const event of ["htmx:sendError", "htmx:timeout"]) document.addEventListener(event, failed);
  document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.xhr && event.detail.xhr.status) offline.hidden = true; });
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
