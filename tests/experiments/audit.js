// Looks at the page as a reader of any kind would, and posts what is wrong to the frame around it.
addEventListener("load", () => {
  const problems = [];
  let checked = 0;
  const wrong = (what, element) => problems.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
  const parse = (colour) => { const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number); return { r, g, b, a }; };
  const light = ({ r, g, b }) => {
    const part = (value) => { const s = value / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.a === 1) return colour;
    }
    return parse("rgb(255,255,255)");
  };
  const visible = (element) => element.getClientRects().length > 0;
  // contrast, WCAG 2 AA: 4.5
  for (const element of document.querySelectorAll("main *, header *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !visible(element) || element.closest("svg")) continue;
    checked += 1;
    const [one, other] = [light(parse(getComputedStyle(element).color)), light(background(element))];
    if ((Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05) < 4.5) wrong("contrast", element);
  }
  // names and structure
  if (!document.documentElement.lang || !document.title) wrong("language or title", document.documentElement);
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) wrong("heading level", heading);
    level = next;
  }
  if (document.querySelectorAll("h1").length !== 1) wrong("one h1", document.body);
  if (document.querySelectorAll("main").length !== 1) wrong("one main", document.body);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) wrong(`id twice (${ids.find((id, place) => ids.indexOf(id) !== place)})`, document.body);
  for (const link of document.querySelectorAll('a[href^="#"]')) if (!document.querySelector(link.getAttribute("href"))) wrong("link to nothing", link);
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]"))
    for (const id of `${element.getAttribute("aria-labelledby") ?? ""} ${element.getAttribute("aria-describedby") ?? ""}`.trim().split(/\s+/))
      if (!document.getElementById(id)) wrong("name from nothing", element);
  for (const image of document.querySelectorAll('[role="img"], [role="region"]'))
    if (!image.getAttribute("aria-label") && !image.getAttribute("aria-labelledby")) wrong("no name", image);
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption && !table.getAttribute("aria-labelledby")) wrong("no caption", table);
    for (const head of table.querySelectorAll("th")) if (!head.scope) wrong("no scope", head);
  }
  for (const svg of document.querySelectorAll("svg")) if (!svg.closest('[role="img"]')) wrong("drawing without a name", svg);
  // size
  if (document.documentElement.scrollWidth > innerWidth) wrong(`wider than ${innerWidth}`, document.body);
  for (const element of document.querySelectorAll("main *"))
    if (visible(element) && !element.closest(".scroll, svg") && element.getBoundingClientRect().right > innerWidth + 1) wrong("sticks out", element);
  if (innerWidth >= 1280) for (const element of document.querySelectorAll(".scroll")) if (element.scrollWidth > element.clientWidth + 1) wrong("scrolls", element);
  for (const button of document.querySelectorAll("button, nav a")) if (button.getBoundingClientRect().height < 24) wrong("small target", button);
  // sorting
  const table = document.querySelector("table.sortable");
  const order = () => [...table.tBodies[0].rows].map((row) => row.cells[1].dataset.sort).filter((text) => text).map(Number);
  const first = JSON.stringify(order());
  const button = table.tHead.rows[0].cells[1].querySelector("button");
  const sorted = (values, sign) => values.every((value, place) => !place || sign * (value - values[place - 1]) >= 0);
  button.click();
  if (!sorted(order(), -1) || button.closest("th").ariaSort !== "descending") wrong("not sorted, best first", button);
  button.click();
  if (!sorted(order(), 1) || button.closest("th").ariaSort !== "ascending") wrong("not sorted, worst first", button);
  button.click();
  if (JSON.stringify(order()) !== first) wrong("not as before", button);
  // where a number comes from
  const number = document.querySelector("main data");
  number.click();
  const origin = document.getElementById("origin");
  if (origin.hidden || !origin.textContent.includes(number.dataset.file)) wrong("no origin", number);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  parent.postMessage(JSON.stringify({ dark, width: innerWidth, checked, problems: problems.slice(0, 12) }), "*");
});
