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

  function filter() {
    const wanted = plain($("#search").value.trim());
    const flagged = $("[name=show]:checked").value === "flagged";
    for (const card of cards) {
      card.hidden =
        (flagged && card.dataset.flagged !== "1") || !plain(card.dataset.name).includes(wanted);
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
    const { name, rank, flagged, size, scale, regions } = card.dataset;
    const [low, high, peak] = scale.split(" ").map(Number);
    const [width, height] = size.split(" ");
    stage.replaceChildren(...[...$(".panes", card).children].map((pane) => pane.cloneNode(true)));
    const verdict = card.dataset.flagged === "1" ? "flagged" : "not flagged";
    $("#viewer-name").textContent = name;
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
