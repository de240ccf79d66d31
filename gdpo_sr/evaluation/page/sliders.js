"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cards = document.getElementById("cards");
  const left = document.getElementById("left");
  const right = document.getElementById("right");
  const order = document.getElementById("order");
  const MAX_ZOOM = 8;

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const option = (value, text) => make("option", { value }, text);
  const shown = (value) => (value === null || value === undefined ? "no score" : value.toFixed(4));

  /* The number by which a card stands in the list; larger first. */
  const keys = { difference: (picture) => picture.difference };
  for (const metric of data.metrics) {
    keys["metric:" + metric.name] = (picture) => {
      const [a, b] = [left.value, right.value].map((m) => (picture.scores[m] || {})[metric.name]);
      const values = [a, b].filter((value) => Number.isFinite(value));
      if (values.length === 2 && a !== b) return Math.abs(a - b);
      if (left.value in picture.scores && right.value in picture.scores) return 0;
      return values.length ? (metric.lower ? values[0] : -values[0]) : -Infinity;
    };
  }

  function buildCard(picture) {
    const view = make("div", { class: "view", tabindex: "0", role: "group" });
    view.style.aspectRatio = picture.width + " / " + picture.height;
    const images = ["after", "before"].map((side) => {
      const image = make("img", { alt: "", decoding: "async", draggable: "false" });
      view.append(make("div", { class: "half " + side }, image));
      return image;
    });
    const tags = ["a", "b"].map((side) => make("span", { class: "tag " + side }));
    view.append(make("div", { class: "divider" }), ...tags);
    const name = picture.name;
    const range = (label, low, high, step, value) =>
      make("input", { type: "range", min: low, max: high, step, value, "aria-label": label + " of " + name });
    const divider = range("Divider", 0, 100, 1, 50);
    const zoom = range("Zoom", 1, MAX_ZOOM, 0.5, 1);
    const outputs = [make("output", {}, "50 %"), make("output", {}, "1×")];
    const body = make("tbody");
    const heads = [make("th", { scope: "col" }), make("th", { scope: "col" })];
    const note = data.methods.length > 1 ? "differs " + picture.difference.toFixed(1) + "× the average" : "";
    const card = make("article", { class: "card" },
      make("header", {}, make("h3", {}, name), make("span", { class: "soft", title: "How far the methods' scores lie apart, compared with the average picture" }, note)),
      view,
      make("div", { class: "bars" }, make("span", {}, "Divider"), divider, outputs[0], make("span", {}, "Zoom"), zoom, outputs[1]),
      make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "metric"), ...heads)), body)));
    if (picture.part) card.append(make("p", { class: "soft", style: "padding:0 .9rem" }, "Shown: " + picture.part));

    const state = { x: 0, y: 0, zoom: 1 };
    function place() {
      const width = view.clientWidth, height = view.clientHeight;
      state.x = clamp(state.x, width * (1 - state.zoom), 0);
      state.y = clamp(state.y, height * (1 - state.zoom), 0);
      for (const image of images) image.style.transform = `translate(${state.x}px, ${state.y}px) scale(${state.zoom})`;
      view.classList.toggle("zoomed", state.zoom > 1);
      view.classList.toggle("pixels", state.zoom * width / picture.width >= 2);
    }
    function setDivider(percent) {
      divider.value = clamp(percent, 0, 100);
      view.style.setProperty("--at", divider.value + "%");
      outputs[0].textContent = divider.value + " %";
    }
    function setZoom(value, x = view.clientWidth / 2, y = view.clientHeight / 2) {
      const next = clamp(value, 1, MAX_ZOOM), ratio = next / state.zoom;
      state.x = x - (x - state.x) * ratio;
      state.y = y - (y - state.y) * ratio;
      state.zoom = next;
      zoom.value = next;
      outputs[1].textContent = next.toFixed(next % 1 ? 1 : 0) + "×";
      place();
    }
    const point = (event) => {
      const box = view.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top, box.width];
    };
    let drag = null;
    view.addEventListener("pointerdown", (event) => {
      const [x, , width] = point(event);
      const near = Math.abs(x - width * divider.value / 100) < 28;
      drag = state.zoom === 1 || near ? "divide" : "pan";
      view.setPointerCapture(event.pointerId);
      if (drag === "divide") setDivider(Math.round(x / width * 100));
    });
    view.addEventListener("pointermove", (event) => {
      const [x, , width] = point(event);
      if (drag === "divide") setDivider(Math.round(x / width * 100));
      if (drag === "pan") { state.x += event.movementX; state.y += event.movementY; place(); }
    });
    for (const kind of ["pointerup", "pointercancel"]) view.addEventListener(kind, () => { drag = null; });
    view.addEventListener("dblclick", (event) => {
      const [x, y] = point(event);
      setZoom(state.zoom > 1 ? 1 : 4, x, y);
    });
    view.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const [x, y] = point(event);
      setZoom(state.zoom * Math.exp(-event.deltaY / 200), x, y);
    }, { passive: false });
    view.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "+" || event.key === "=") setZoom(state.zoom + 0.5);
      else if (event.key === "-") setZoom(state.zoom - 0.5);
      else if (event.key === "0") { setZoom(1); setDivider(50); }
      else if (step && event.shiftKey) { state.x -= 40 * step[0]; state.y -= 40 * step[1]; place(); }
      else if (step && step[0]) setDivider(Number(divider.value) + 2 * step[0]);
      else return;
      event.preventDefault();
    });
    divider.addEventListener("input", () => setDivider(Number(divider.value)));
    zoom.addEventListener("input", () => setZoom(Number(zoom.value)));
    addEventListener("resize", place);

    let visible = false;
    function show() {
      const names = [left.value, right.value];
      names.forEach((source, index) => {
        tags[index].textContent = source;
        heads[index].textContent = source;
        const image = images[1 - index];
        const uri = picture.images[source];
        image.alt = name + ", " + source + (uri ? "" : ": no picture");
        image.style.visibility = uri ? "visible" : "hidden";
        if (visible && uri && image.src !== uri) image.src = uri;
      });
      view.setAttribute("aria-label", `Compare ${names[0]} and ${names[1]} of ${name}: arrow keys move the divider, plus and minus zoom`);
      body.replaceChildren(...data.metrics.map((metric) => {
        const values = names.map((source) => (source in picture.scores ? picture.scores[source][metric.name] : undefined));
        const [a, b] = values;
        const both = Number.isFinite(a) && Number.isFinite(b) && a !== b;
        const winner = both ? ((a < b) === metric.lower ? 0 : 1) : -1;
        const entries = values.map((value, index) => make("td", { class: winner === index ? "best" : "" }, value === undefined ? "–" : shown(value)));
        return make("tr", {}, make("th", { scope: "row" }, metric.name + (metric.lower ? " ↓" : " ↑")), ...entries);
      }));
    }
    new IntersectionObserver((entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      visible = true;
      observer.disconnect();
      show();
      place();
    }, { rootMargin: "600px" }).observe(card);
    setDivider(50);
    return { picture, card, show };
  }

  for (const source of data.sources) { left.append(option(source, source)); right.append(option(source, source)); }
  left.value = data.baseline;
  right.value = data.sources.find((source) => source !== data.baseline) || data.baseline;
  if (data.methods.length > 1) order.append(option("difference", "most different first"));
  for (const metric of data.metrics) order.append(option("metric:" + metric.name, metric.name + " gap of left and right"));
  order.append(option("name", "name"));

  const built = data.pictures.map(buildCard);
  function sort() {
    const value = keys[order.value];
    const rank = (entry) => data.order.indexOf(entry.picture.name);
    const compare = value ? (a, b) => value(b.picture) - value(a.picture) || rank(a) - rank(b) : (a, b) => rank(a) - rank(b);
    cards.append(...built.slice().sort(compare).map((entry) => entry.card));
  }
  function update() { built.forEach((entry) => entry.show()); sort(); }
  for (const control of [left, right]) control.addEventListener("change", update);
  order.addEventListener("change", sort);
  document.getElementById("swap").addEventListener("click", () => {
    [left.value, right.value] = [right.value, left.value];
    update();
  });
  update();
})();
