"use strict";
(() => {
  const read = (id) => {
    const element = document.getElementById(id);
    return element === null ? null : JSON.parse(element.textContent);
  };
  const tip = document.getElementById("tip");
  const units = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, ms: 1e-3 };

  // A cell as a number, where it begins with one: 1,204.5 / .762 / -0.9 [..] / 1.351 M / 38 ms.
  const numeric = (text) => {
    const match = /^[<↳\s]*([+\-−]?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?)\s*([kMGT](?![a-z])|ms\b)?/.exec(text);
    if (match === null) return null;
    return parseFloat(match[1].replaceAll(",", "").replace("−", "-")) * (units[match[2]] ?? 1);
  };

  const sort = (table, place, header) => {
    const falls = header.getAttribute("aria-sort") === "descending"
      || (header.getAttribute("aria-sort") === null && !header.classList.contains("number"));
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", falls ? "ascending" : "descending");
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const text = row.cells[place].textContent.trim();
      return { row, text, value: numeric(text) };
    });
    keyed.sort((one, other) => {
      if ((one.text === "") !== (other.text === "")) return one.text === "" ? 1 : -1;
      if ((one.value === null) !== (other.value === null)) return one.value === null ? 1 : -1;
      const order = one.value === null ? one.text.localeCompare(other.text) : one.value - other.value;
      return falls ? order : -order;
    });
    body.append(...keyed.map((one) => one.row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent || "choice";
      header.replaceChildren(button);
      button.addEventListener("click", () => sort(table, place, header));
    });
  }

  const cellsOf = (table, row) => {
    const shown = table.querySelector(`tbody tr[data-row="${row}"]`);
    if (shown !== null) return [...shown.cells].map((cell) => cell.textContent);
    const first = Number(table.dataset.shown);
    table.hidden_rows ??= read(`${table.id}-rows`) ?? [];
    return table.hidden_rows[row - first] ?? [];
  };

  // The row in the table, marked; one that is not shown yet is added at the top.
  const fix = (table, row) => {
    let shown = table.querySelector(`tbody tr[data-row="${row}"]`);
    if (shown === null) {
      shown = document.createElement("tr");
      shown.dataset.row = row;
      const heads = table.tHead.rows[0].cells;
      cellsOf(table, row).forEach((text, place) => {
        const cell = document.createElement("td");
        cell.textContent = text;
        if (heads[place].classList.contains("number")) cell.className = "number";
        shown.append(cell);
      });
      table.tBodies[0].prepend(shown);
    }
    for (const other of table.querySelectorAll("tr.fixed")) other.classList.remove("fixed");
    shown.classList.add("fixed");
    shown.scrollIntoView({ block: "nearest" });
  };

  const interactive = (figure) => {
    const points = read(`${figure.id}-points`);
    if (points === null || points.x.length === 0) return;
    const canvas = figure.querySelector(".canvas");
    const svg = canvas.querySelector("svg");
    const [, , width] = svg.getAttribute("viewBox").split(/\s+/).map(Number);
    const table = points.grid ? document.getElementById(points.grid) : null;
    const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", "6");
    ring.setAttribute("visibility", "hidden");
    svg.append(ring);
    figure.classList.add("has-points");
    canvas.tabIndex = 0;
    const order = points.x.map((_, place) => place).sort((one, other) => points.x[one] - points.x[other]);
    let at = -1;

    const textOf = (place) => {
      if (table === null) return points.texts[place];
      const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
      const cells = cellsOf(table, points.rows[place]);
      return heads.map((head, column) => `${head}: ${cells[column] ?? ""}`).filter((_, i) => cells[i]).join("\n");
    };

    const show = (place, left, top) => {
      at = place;
      ring.setAttribute("cx", points.x[place]);
      ring.setAttribute("cy", points.y[place]);
      ring.setAttribute("visibility", "visible");
      tip.textContent = textOf(place);
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(left + 14, innerWidth - box.width - 4))}px`;
      tip.style.top = `${top + 18 + box.height > innerHeight ? Math.max(4, top - box.height - 10) : top + 18}px`;
    };
    const hide = () => {
      tip.hidden = true;
      ring.setAttribute("visibility", "hidden");
    };
    const showAt = (place) => {
      const box = svg.getBoundingClientRect();
      const scale = box.width / width;
      show(place, box.left + points.x[place] * scale, box.top + points.y[place] * scale);
    };
    const nearest = (event) => {
      const box = svg.getBoundingClientRect();
      const scale = width / box.width;
      const x = (event.clientX - box.left) * scale;
      const y = (event.clientY - box.top) * scale;
      let best = -1;
      let least = (24 * scale) ** 2;
      for (let place = 0; place < points.x.length; place += 1) {
        const distance = (points.x[place] - x) ** 2 + (points.y[place] - y) ** 2;
        if (distance < least) {
          least = distance;
          best = place;
        }
      }
      return best;
    };
    canvas.addEventListener("pointermove", (event) => {
      const place = nearest(event);
      if (place < 0) hide();
      else show(place, event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerleave", hide);
    canvas.addEventListener("blur", hide);
    canvas.addEventListener("click", (event) => {
      const place = nearest(event);
      if (place >= 0 && table !== null) fix(table, points.rows[place]);
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step !== undefined) {
        event.preventDefault();
        const place = at < 0 ? 0 : order.indexOf(at) + step;
        showAt(order[Math.max(0, Math.min(order.length - 1, place))]);
      } else if (event.key === "Enter" && at >= 0 && table !== null) {
        fix(table, points.rows[at]);
      } else if (event.key === "Escape") {
        hide();
      }
    });
  };
  for (const table of document.querySelectorAll("table")) table.dataset.shown = table.tBodies[0].rows.length;
  for (const figure of document.querySelectorAll("figure.picture")) interactive(figure);

  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
