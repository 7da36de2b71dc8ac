"use strict";
// A page that has not been written for long is not kept up: its verdict is hidden behind that.
const age = Date.now() - Number(document.body.dataset.written);
if (age > Number(document.body.dataset.stale) && !document.querySelector("#banner.ended")) {
  document.getElementById("banner").hidden = true;
  document.getElementById("old").hidden = false;
  document.title = "NOT UPDATED";
}
