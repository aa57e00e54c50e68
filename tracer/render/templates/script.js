
"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const say = (text) => { by("status").textContent = text; };
  const number = (value) => value.toLocaleString("en");

  // The table: sorting, filtering, and a limit of rows.
  const table = by("table");
  if (table) {
    const atOnce = Number(table.dataset.atOnce);
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[0].cells];
    const collator = new Intl.Collator("en", { numeric: true });
    let rows = [...table.tBodies].flatMap((part) => [...part.rows]).map((row) => ({ row, text: "", keys: [] }));
    let all = rows.length <= atOnce;

    const has = (entry, wanted) => {
      entry.text ||= entry.row.textContent.toLowerCase();
      return wanted.every((word) => entry.text.includes(word));
    };
    const show = () => {
      const wanted = by("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
      const cause = by("cause").value;
      let found = 0;
      let shown = 0;
      for (const entry of rows) {
        const fits = (!cause || entry.row.dataset.cause === cause) && (!wanted.length || has(entry, wanted));
        found += fits ? 1 : 0;
        const hide = !fits || (!all && found > atOnce);
        shown += hide ? 0 : 1;
        if (entry.row.hidden !== hide) entry.row.hidden = hide;
      }
      const of = found === rows.length ? "" : ` of ${number(rows.length)}`;
      const flows = found === 1 && !of ? "flow" : "flows";
      const rest = shown < found ? `; the first ${number(shown)} are shown` : "";
      by("count").textContent = `${number(found)}${of} ${flows}${rest}`;
      by("more").hidden = shown === found;
      by("more").textContent = `Show all ${number(found)}`;
    };

    const sort = (column) => {
      const heading = headings[column];
      const down = heading.getAttribute("aria-sort") === "ascending";
      const numeric = heading.dataset.kind === "number";
      for (const entry of rows) {
        entry.keys[column] ??= numeric
          ? Number(entry.row.cells[column].textContent)
          : entry.row.cells[column].textContent;
      }
      const order = numeric ? (a, b) => a - b : collator.compare;
      rows.sort((a, b) => (down ? -1 : 1) * order(a.keys[column], b.keys[column]));
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.replaceChildren(...rows.map((entry) => entry.row));
      show();
      say(`sorted by ${heading.textContent}, ${down ? "descending" : "ascending"}`);
    };

    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(column));
      heading.append(button);
    });
    let waiting = 0;
    for (const change of ["input", "change"]) {
      by("filter").addEventListener(change, () => {
        clearTimeout(waiting);
        waiting = setTimeout(show, 120);
      });
    }
    by("cause").addEventListener("change", show);
    by("filter").form.addEventListener("submit", (event) => event.preventDefault());
    by("more").addEventListener("click", () => { all = true; show(); });
    show();
    document.documentElement.classList.add("ready");
  }

  // A link to a flow unfolds it.
  const arrive = () => {
    const id = location.hash.slice(1);
    const target = id.startsWith("flow-") ? by(id) : null;
    if (!target) return;
    target.querySelector("details").open = true;
    target.querySelector("h3").focus({ preventScroll: true });
    target.scrollIntoView();
  };
  addEventListener("hashchange", arrive);
  arrive();
  const details = () => document.querySelectorAll(".flow > details");
  by("unfold")?.addEventListener("click", () => details().forEach((detail) => { detail.open = true; }));
  by("fold")?.addEventListener("click", () => details().forEach((detail) => { detail.open = false; }));

  // The evidence.
  const source = by("json").textContent;
  let parsed = null;
  const report = () => (parsed ??= JSON.parse(source));
  for (const raw of document.querySelectorAll("details.raw")) {
    raw.addEventListener("toggle", () => {
      const pre = raw.querySelector("pre");
      if (raw.open && !pre.textContent) {
        pre.textContent = JSON.stringify(report().flows[Number(raw.dataset.flow)], null, 2);
      }
    });
  }
  by("save-json").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(report(), null, 2), "\n"], { type: "application/json" }));
    link.download = "whyrst-report.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say("JSON saved");
  });

  // Copying: the clipboard if the browser allows it, else the old command.
  const old = (text) => {
    const area = document.createElement("textarea");
    area.className = "unseen";
    area.value = text;
    const before = document.activeElement;
    document.body.append(area);
    area.select();
    let done = false;
    try { done = document.execCommand("copy"); } catch { done = false; }
    area.remove();
    before?.focus();
    return done;
  };
  const copy = async (button, text) => {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      done = old(text);
    }
    const label = button.dataset.label ??= button.textContent;
    button.textContent = done ? "Copied" : "Not copied: select it";
    say(done ? "copied" : "not copied: the browser does not allow it");
    setTimeout(() => { button.textContent = label; }, 2000);
  };
  by("copy-json").addEventListener("click", (event) => copy(event.currentTarget, JSON.stringify(report(), null, 2)));
  for (const button of document.querySelectorAll("button.copy")) {
    const commands = () => [...button.parentElement.querySelectorAll("code")].map((code) => code.textContent);
    button.addEventListener("click", () => copy(button, commands().join("\n")));
  }

  // Printing unfolds everything.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not(.raw):not([open])")];
    folded.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => {
    folded.forEach((details) => { details.open = false; });
    folded = [];
  });
})();
