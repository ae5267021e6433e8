"use strict";
// What the pages do by themselves; all else is htmx's. A page says that it is old once the console does not answer.
(() => {
  const offline = document.getElementById("offline");
  const failed = () => { offline.hidden = false; };
  for (const event of ["htmx:sendError", "htmx:timeout"]) document.addEventListener(event, failed);
  document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.xhr && event.detail.xhr.status) offline.hidden = true; });
  document.addEventListener("keydown", (event) => {
    const field = document.querySelector("input[type=search]");
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || !field) return;
    if (event.target.closest("input, textarea, select")) return;
    event.preventDefault();
    field.focus();
    field.select();
  });
})();
