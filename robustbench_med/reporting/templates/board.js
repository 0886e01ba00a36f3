"use strict";
// Sorts and filters the tables, draws the figures, copies commands. Without it the pages still say everything.
(() => {
  const own = document.currentScript;
  const said = (text) => { const status = document.getElementById("status"); if (status) status.textContent = text; };

  // Sorting: each body by itself, so that what is not ranked stays below.
  const sortBy = (header) => {
    const table = header.closest("table"), button = header.querySelector("button");
    const column = header.cellIndex, numbers = button.dataset.order === "number";
    const first = numbers && column > 0 ? "descending" : "ascending";
    const other = { ascending: "descending", descending: "ascending" };
    const current = header.getAttribute("aria-sort");
    const order = current ? other[current] : first;
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const words = new Intl.Collator("en", { numeric: true });
    for (const body of table.tBodies) {
      if (body.classList.contains("heading")) continue;
      const keyed = [...body.rows].map((row) => [row.cells[column].dataset.value, row]);
      keyed.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last, either way
        return sign * (numbers ? a - b : words.compare(a, b));
      });
      body.append(...keyed.map(([, row]) => row));
    }
    said(`Sorted by ${button.textContent.trim()}, ${order}.`);
  };
  for (const header of document.querySelectorAll("table.sortable thead th"))
    header.querySelector("button").addEventListener("click", () => sortBy(header));

  // Filters: by what a row or its board says of itself.
  const form = document.getElementById("filters");
  if (form) {
    const sections = [...document.querySelectorAll("section.board")].map((section) => ({
      section,
      link: document.querySelector(`nav a[href="#${section.id}"]`)?.parentElement,
      bodies: [...section.querySelectorAll("tbody:not(.heading)")].map((body) => ({
        body,
        rows: [...body.rows].map((row) => ({ row, text: row.textContent.toLowerCase(), has: { ...section.dataset, ...row.dataset } })),
      })),
    }));
    const apply = () => {
      const values = [...new FormData(form)].filter(([, value]) => value !== "");
      const asked = values.filter(([key]) => key !== "text");
      const words = (values.find(([key]) => key === "text") || ["", ""])[1].toLowerCase().split(/\s+/);
      let shown = 0, all = 0;
      for (const { section, link, bodies } of sections) {
        let here = 0;
        for (const { body, rows } of bodies) {
          let left = 0;
          for (const { row, text, has } of rows) {
            const fits = asked.every(([key, value]) => has[key] === value) && words.every((word) => text.includes(word));
            row.hidden = !fits;
            left += fits;
          }
          all += rows.length;
          here += left;
          body.hidden = left === 0;
          const heading = body.previousElementSibling;
          if (heading && heading.classList.contains("heading")) heading.hidden = left === 0;
        }
        section.hidden = here === 0;
        if (link) link.hidden = here === 0;
        shown += here;
      }
      const folded = document.getElementById("parts-list");
      if (folded && values.length) folded.open = folded.querySelector("tr[data-standing]:not([hidden])") !== null;
      said(values.length ? `${shown} of ${all} runs shown.` : `${all} runs.`);
    };
    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(apply));
    apply();
  }

  // Copying.
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copy), label = button.innerHTML;
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.innerHTML = label; }, 1500);
    });
  }

  // Figures: drawn when they come into view, coloured by the scheme of the page.
  let library;
  const plotly = () => library ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = own.dataset.plotly;
    script.onload = () => done(window.Plotly);
    script.onerror = failed;
    document.head.append(script);
  });
  const themed = (layout) => {
    const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      colorway: [1, 2, 3, 4, 5, 6, 7, 8].map((n) => colour(`--c${n}`)),
      font: { family: "system-ui, sans-serif", size: 13, color: colour("--ink") },
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
    };
  };
  const draw = async (figure) => {
    const spec = JSON.parse(figure.querySelector("script").textContent), plot = figure.querySelector(".plot");
    const library = await plotly();
    const narrow = plot.clientWidth < 500;
    const data = narrow ? spec.data.map((trace) => ({ ...trace, mode: trace.mode === "markers+text" ? "markers" : trace.mode })) : spec.data;
    await library.react(plot, data, themed(spec.layout), { displayModeBar: false, displaylogo: false, responsive: true });
    if (!figure.dataset.drawn) plot.on("plotly_click", ({ points }) => { if (points[0].customdata) location.href = points[0].customdata; });
    figure.dataset.drawn = "yes";
  };
  const figures = [...document.querySelectorAll("figure.chart")];
  for (const figure of figures) {
    figure.querySelector(".plot").setAttribute("role", "img");
    figure.querySelector(".plot").setAttribute("aria-label", figure.dataset.label);
  }
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries)
      if (isIntersecting) { seen.unobserve(target); draw(target); }
  }, { rootMargin: "300px" });
  figures.forEach((figure) => seen.observe(figure));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figures.filter((f) => f.dataset.drawn).forEach(draw));
})();
