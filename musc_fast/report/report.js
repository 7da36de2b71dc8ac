"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const grid = $("#grid");
  const cards = [...grid.children];
  const viewer = $("#viewer");
  const stage = $("#stage");

  // The file holds each photo once: its copy lies in grey under the heat layer of the overlay.
  for (const card of cards) {
    $(".overlay", card).prepend($(".original .photo", card).cloneNode());
  }
  for (const link of document.querySelectorAll(".misses a")) {
    const card = $(link.hash);
    link.prepend($(".original", card).cloneNode(true));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      open(card, link);
    });
  }

  // Light and dark

  $("#theme").addEventListener("click", () => {
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  });

  // Filter, search, order

  const plain = (text) => text.normalize("NFC").toLowerCase();
  const shown = () => cards.filter((card) => !card.hidden);

  let bin = null; // of the histogram, whose images alone are shown

  function filter() {
    const wanted = plain($("#search").value.trim());
    const verdict = $("[name=show]:checked").value;
    for (const card of cards) {
      card.hidden =
        (verdict !== "all" && card.dataset.verdict !== verdict) ||
        (bin !== null && card.dataset.bin !== bin) ||
        !plain(card.dataset.name).includes(wanted);
    }
    const count = shown().length;
    $("#count").value = count === cards.length ? `${count} images` : `${count} of ${cards.length} images`;
    $("#nothing").hidden = count > 0;
  }

  function order() {
    const names = new Intl.Collator(undefined, { numeric: true });
    cards.sort(
      $("#order").value === "name"
        ? (a, b) => names.compare(a.dataset.name, b.dataset.name)
        : (a, b) => a.dataset.rank - b.dataset.rank,
    );
    grid.append(...cards);
  }

  $("#search").addEventListener("input", filter);
  for (const choice of document.querySelectorAll("[name=show]")) {
    choice.addEventListener("change", filter);
  }
  $("#order").addEventListener("change", order);

  // A bar of the histogram selects its images; again, or the button, lets go of them.

  const bars = [...document.querySelectorAll(".histogram .bar")];

  function select(bar) {
    bin = bar && bar.dataset.bin !== bin ? bar.dataset.bin : null;
    for (const other of bars) {
      other.classList.toggle("dimmed", bin !== null && other.dataset.bin !== bin);
      other.setAttribute("aria-pressed", other.dataset.bin === bin);
    }
    $("#bar").hidden = bin === null;
    if (bin !== null) $("#bar").textContent = `Raw score ${bar.dataset.range} ✕`;
    filter();
  }

  for (const bar of bars) {
    bar.addEventListener("click", () => select(bar));
    bar.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      select(bar);
    });
  }
  $("#bar").addEventListener("click", () => select(null));

  // What a person found on looking: kept in this browser under the run's own name.

  const storeName = `musc_fast checks ${grid.dataset.run}`;
  let checks = {};
  try {
    checks = JSON.parse(localStorage.getItem(storeName)) || {};
  } catch {
    // Storage is blocked or damaged: the checks last as long as the page.
  }

  function showChecks() {
    for (const card of cards) {
      for (const button of card.querySelectorAll("[data-check]")) {
        button.setAttribute("aria-pressed", checks[card.dataset.rank] === button.dataset.check);
      }
    }
    const count = Object.keys(checks).length;
    $("#checked").textContent = count;
    $("#export").disabled = count === 0;
  }

  function check(button) {
    const { rank } = button.closest(".card").dataset;
    if (checks[rank] === button.dataset.check) delete checks[rank];
    else checks[rank] = button.dataset.check;
    try {
      localStorage.setItem(storeName, JSON.stringify(checks));
    } catch {
      // As above.
    }
    showChecks();
  }

  function checksAsCsv() {
    const cell = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const rows = cards
      .filter((card) => card.dataset.rank in checks)
      .sort((a, b) => a.dataset.rank - b.dataset.rank)
      .map(({ dataset: { path, raw, rank, verdict } }) => [path, raw, rank, verdict, checks[rank]]);
    const lines = [["path", "raw_score", "rank", "verdict", "checked"], ...rows];
    return lines.map((line) => line.map(cell).join(",") + "\n").join("");
  }

  grid.addEventListener("click", (event) => {
    const button = event.target.closest("[data-check]");
    if (button) check(button);
  });
  $("#export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([checksAsCsv()], { type: "text/csv" }));
    link.download = "checks.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  showChecks();

  const boxes = [$("#marks"), $("#viewer-marks")];
  for (const box of boxes) {
    box.addEventListener("change", () => {
      for (const other of boxes) other.checked = box.checked;
      document.body.classList.toggle("no-marks", !box.checked);
    });
  }

  // The enlarged view

  let current = null;
  let opener = null;

  function open(card, from) {
    opener = from;
    const narrow = innerWidth < innerHeight;
    if (!$("[name=mode]:checked")) {
      $(`[name=mode][value=${narrow ? "slider" : "beside"}]`).checked = true;
      setMode();
    }
    viewer.showModal();
    show(card);
    $("#close").focus({ preventScroll: true });
  }

  function show(card) {
    current = card;
    const { rank, size, scale, regions } = card.dataset;
    const [low, high, peak] = scale.split(" ").map(Number);
    const [width, height] = size.split(" ");
    stage.replaceChildren(...[...$(".panes", card).children].map((pane) => pane.cloneNode(true)));
    const verdict = { clear: "not flagged", look: "look" }[card.dataset.verdict] || "flagged";
    // The card's title knows where its name may be broken.
    $("#viewer-name").replaceChildren(...$("h3", card).cloneNode(true).childNodes);
    $("#viewer-facts").textContent =
      `Rank ${rank} of ${cards.length} · ${verdict} · ${$(".facts p", card).textContent} · ${width} × ${height} px`;
    const position = (value) => `${Math.min(100, Math.max(0, (100 * (value - low)) / (high - low || 1)))}%`;
    const level = Number(viewer.dataset.level);
    $(".bar-peak", viewer).style.left = position(peak);
    $(".bar-cut", viewer).style.left = position(level);
    $(".bar-cut", viewer).hidden = !(viewer.dataset.level && low < level && level < high);
    [...$("#viewer-scale").children].forEach((item, k) => {
      item.textContent = (low + ((high - low) * k) / 4).toFixed(3);
    });
    const rows = JSON.parse(regions).map(([x, y, w, h, share, top], k) => {
      const row = document.createElement("tr");
      const area = `${(100 * share).toPrecision(2)}%`;
      for (const text of [k + 1, `${x}, ${y}`, `${w} × ${h} px`, area, top.toFixed(3)]) {
        row.insertCell().textContent = text;
      }
      return row;
    });
    $("#viewer-regions tbody").replaceChildren(...rows);
    $("#viewer-regions").hidden = rows.length === 0;
    arrange();
  }

  // Make the panes as wide as the image needs, side by side or stacked, whichever is larger.
  function arrange() {
    if (!current) return;
    const [width, height] = current.dataset.size.split(" ");
    const ratio = width / height;
    const fit = (across, up) => Math.min(across, up * ratio);
    const { clientWidth: across, clientHeight: up } = stage;
    const beside = fit((across - 8) / 2, up);
    const stacked = fit(across, (up - 8) / 2);
    const slider = stage.classList.contains("slider");
    stage.classList.toggle("stacked", !slider && stacked > beside);
    stage.style.setProperty("--fit", `${slider ? fit(across, up) : Math.max(beside, stacked)}px`);
  }

  function step(offset) {
    const list = shown();
    const index = list.indexOf(current);
    if (list.length) show(list[(index + offset + list.length) % list.length]);
  }

  function setMode() {
    const slider = $("[name=mode]:checked").value === "slider";
    stage.classList.toggle("slider", slider);
    $("#cut-label").hidden = !slider;
    arrange();
  }

  function setCut(percent) {
    $("#cut").value = percent;
    stage.style.setProperty("--cut", `${percent}%`);
  }

  grid.addEventListener("click", (event) => {
    const panes = event.target.closest(".panes");
    if (panes) open(panes.closest(".card"), panes);
  });
  for (const choice of document.querySelectorAll("[name=mode]")) {
    choice.addEventListener("change", setMode);
  }
  $("#cut").addEventListener("input", () => setCut($("#cut").value));
  const drag = (event) => {
    if (!stage.classList.contains("slider") || !event.buttons) return;
    const box = $(".pane", stage).getBoundingClientRect();
    setCut(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width))));
  };
  addEventListener("resize", arrange);
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  stage.addEventListener("dragstart", (event) => event.preventDefault());
  $("#previous").addEventListener("click", () => step(-1));
  $("#next").addEventListener("click", () => step(1));
  $("#close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.target.matches("input")) return; // arrows move the slider and the choices
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
  });
  viewer.addEventListener("close", () => {
    // Focus the image last seen, or the miss from which the view was opened.
    const panes = current && !current.hidden && !opener.matches(".misses a") ? $(".panes", current) : opener;
    panes.focus();
    panes.scrollIntoView({ block: "nearest" });
    stage.replaceChildren();
  });
})();
