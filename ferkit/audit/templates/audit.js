"use strict";
(() => {
  const values = JSON.parse(document.getElementById("values").textContent);
  const words = JSON.parse(document.getElementById("words").textContent);
  const key = "ferkit-audit-" + values.digest;
  const kept = read();
  let language = kept.language || document.documentElement.lang;
  // Choices: picture -> [action, value]; finding number -> true where all of it are one person.
  const pictures = new Map(kept.pictures || []);
  const persons = new Set(kept.persons || []);

  function read() {
    try { return JSON.parse(localStorage.getItem(key)) || {}; } catch { return {}; }
  }
  function keep() {
    try {
      localStorage.setItem(key, JSON.stringify({ language, pictures: [...pictures], persons: [...persons] }));
    } catch { /* private windows forget; the page works all the same */ }
  }

  const t = (name, fields = {}) => {
    const [group, one] = name.split(".");
    const entry = words[group] && words[group][one];
    const text = entry ? entry[language] : one;
    return withParticles(text.replace(/\{(\w+)\}/g, (_, field) => fields[field]));
  };
  // 기쁨으로, 분노로, 1로, 3으로: the last letter or digit decides (8 is ㄹ).
  const ends = (before) => (before < "가" ? !"036".includes(before) : [0, 8].includes((before.charCodeAt(0) - 0xac00) % 28));
  const withParticles = (text) => text.replace(/([가-힣0-9])\(으\)로/g, (_, before) => before + (ends(before) ? "로" : "으로"));
  const number = (n) => n.toLocaleString(language);
  const percent = (x, digits = 0) => (100 * x).toFixed(digits) + "%";
  const label = (name) => values.names[language][name] || name || t("word.none");

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child != null));
    return node;
  }
  const cell = (text, kind) => make("td", kind ? { class: kind } : {}, text);
  const head = (names, right = []) =>
    make("thead", {}, make("tr", {}, ...names.map((name, i) => make("th", { scope: "col", class: right.includes(i) ? "num" : null }, name))));
  const scrolled = (table) => make("div", { class: "scroll" }, table);

  function facts(finding) {
    const f = finding.facts;
    const line = [];
    if (f.predicted !== undefined)
      line.push(t("fact.predicted", { label: label(f.predicted), p: percent(f.probability), q: percent(f.of_given) }));
    if (f.labels !== undefined) line.push(t("fact.labels", { counts: counted(f.labels, label) }));
    if (f.splits !== undefined) line.push(t("fact.splits", { counts: counted(f.splits, split) }));
    if (f.person !== undefined) line.push(t("fact.person", { person: f.person }));
    if (f.likeness !== undefined) line.push(f.likeness >= 1 ? t("fact.exact") : t("fact.likeness", { p: percent(f.likeness) }));
    if (f.contrast !== undefined) line.push(t("fact.contrast", { n: f.contrast.toFixed(1) }));
    if (f.sharpness !== undefined) line.push(t("fact.sharpness", { n: f.sharpness.toFixed(2) }));
    if (f.distance !== undefined) line.push(t("fact.distance", { n: f.distance.toFixed(1) }));
    if (f.size !== undefined) line.push(f.size.replace("x", "×"));
    if (f.reason !== undefined) line.push(f.reason[language]);
    if (finding.more) line.push(t("fact.more", { n: number(finding.more) }));
    return line.join(" · ");
  }
  const split = (name) => t("split." + name);
  const counted = (text, name) =>
    text.split(", ").map((part) => { const at = part.lastIndexOf(" "); return name(part.slice(0, at)) + part.slice(at); }).join(", ");

  function choose(row, action, value) {
    const now = pictures.get(row);
    if (now && now[0] === action && now[1] === value) pictures.delete(row);
    else pictures.set(row, [action, value]);
    changed();
  }

  function picture(row, suggestion, finding) {
    const one = values.rows[row];
    // In a dispute between copies the likeliest new label is that of another copy.
    const other = finding.rows.map((one) => values.rows[one].label).find((name) => name && name !== one.label);
    const relabels = values.labels.filter((name) => name !== one.label);
    const image = values.images[row];
    const node = make("div", { class: "picture", "data-row": row });
    const tick = (action, text, extra) => {
      const box = make("input", { type: "checkbox", "data-action": action, onchange: () => {
        choose(row, action, action === "relabel" ? node.querySelector("select").value : "");
      } });
      return make("label", { class: "tick" + (suggestion[0] === action && action !== "keep" ? " suggested" : "") }, box, text, extra);
    };
    node.append(
      image ? make("img", { src: image, alt: one.path, loading: "lazy" }) : make("span", { class: "none" }, t("word.no_picture")),
      make("div", { class: "label" }, make("span", { class: "from" }), make("span", { class: "to" })),
      make("span", { class: "muted" }, [one.split && split(one.split), image && one.size].filter(Boolean).join(" · ")),
      make("span", { class: "file", title: one.path }, make("bdi", {}, one.path)),
      tick("drop", t("action.drop")),
    );
    if (relabels.length) {
      const select = make("select", { "aria-label": t("action.relabel"), onchange: (event) => {
        pictures.set(row, ["relabel", event.target.value]);
        changed();
      } }, ...relabels.map((name) => make("option", { value: name }, label(name))));
      if (suggestion[0] === "relabel") select.value = suggestion[1];
      else if (other) select.value = other;
      node.append(tick("relabel", "→", select));
    }
    node.append(tick("keep", t("action.keep")));
    return node;
  }

  function card(finding, n) {
    const node = make("article", { class: "card", "data-finding": n });
    const text = facts(finding);
    if (text) node.append(make("p", { class: "facts" }, text));
    node.append(make("div", { class: "pictures" }, ...finding.rows.map((row, i) => picture(row, finding.suggested[i], finding))));
    if (finding.rows.length > 1 && finding.kind !== "split_person" && !finding.more) {
      const box = make("input", { type: "checkbox", "data-person": n, onchange: (event) => {
        if (event.target.checked) persons.add(n); else persons.delete(n);
        changed();
      } });
      node.append(make("label", { class: "tick same" }, box, t("action.same_person")));
    }
    return node;
  }

  function section(kind) {
    const total = values.counts[kind];
    const mine = values.shown.map((finding, n) => [finding, n]).filter(([finding]) => finding.kind === kind);
    if (!mine.length) return null;
    const useful = mine.some(([finding]) => finding.suggested.some(([action]) => action !== "keep"));
    const all = (act) => () => {
      for (const [finding] of mine) finding.rows.forEach((row, i) => act(row, finding.suggested[i]));
      changed();
    };
    return make("section", { id: kind },
      make("h2", {}, t("kind." + kind), " ", make("span", { class: "n" }, number(total))),
      make("p", {}, t("means." + kind)),
      total > mine.length ? make("p", { class: "muted small" }, t("text.gravest", { n: number(mine.length), total: number(total) })) : null,
      make("div", { class: "section-actions" },
        useful ? make("button", { type: "button", class: "plain", onclick: all((row, s) => { if (s[0] !== "keep" && !pictures.has(row)) pictures.set(row, s); }) }, t("button.suggested")) : null,
        make("button", { type: "button", class: "plain", onclick: all((row) => pictures.delete(row)) }, t("button.none"))),
      make("div", { class: "cards" + (mine.some(([finding]) => finding.rows.length > 1) ? " groups" : "") }, ...mine.map(([finding, n]) => card(finding, n))));
  }

  function overview() {
    const rows = Object.entries(values.counts).map(([kind, n]) => make("tr", { class: n ? null : "zero" },
      make("td", { class: "name" }, n ? make("a", { href: "#" + kind }, t("kind." + kind)) : t("kind." + kind)),
      cell(number(n), "num"), cell(t("short." + kind), "means")));
    const notes = values.notes[language];
    const most = Math.max(1, ...Object.values(values.classes));
    const classes = Object.entries(values.classes).map(([name, n]) => make("tr", {},
      cell(label(name), "name"), cell(number(n), "num"), cell(percent(n / values.pictures, 1), "num"),
      make("td", {}, make("span", { class: "meter" }, make("b", { style: `width:${(100 * n / most).toFixed(1)}%` })))));
    return [
      make("h2", {}, t("title.overview")),
      make("p", {}, t("text.how")),
      make("table", {}, head([t("column.finding"), t("column.number"), ""], [1]), make("tbody", {}, ...rows)),
      make("h2", {}, t("title.classes")),
      values.imbalance >= 1.05 ? make("p", {}, t("text.imbalance", { ratio: values.imbalance.toFixed(1) })) : null,
      make("table", {}, make("tbody", {}, ...classes)),
      ...values.drift.flatMap(drift),
      notes.length ? make("h2", {}, t("title.notes")) : null,
      notes.length ? make("ul", {}, ...notes.map((note) => make("li", {}, note))) : null,
    ];
  }

  function drift(one) {
    const known = (name) => (values.splits[name] !== undefined ? split(name) : name);
    const rows = one.differences.map((d) => {
      const strength = d.measure === "AUC" ? 2 * d.value - 1 : d.value;
      return make("tr", {}, cell(words.property[d.what] ? t("property." + d.what) : d.what, "name"),
        cell(d.measure + " " + d.value.toFixed(3), "num"),
        make("td", {}, make("span", { class: "meter" }, make("b", { style: `width:${(100 * Math.max(0, strength)).toFixed(1)}%` }))),
        cell(d.p < 0.001 ? "< 0.001" : d.p.toFixed(3), "num"),
        cell(d.what === "label" ? d.detail.replace(/^(.*): /, (_, name) => label(name) + ": ") : d.detail));
    });
    return [
      make("h2", {}, t("title.drift", { first: known(one.first), second: known(one.second) })),
      make("p", { class: "muted small" }, t("text.drift", { first: number(one.n_first), second: number(one.n_second) })),
      scrolled(make("table", {}, head([t("column.property"), t("column.measure"), "", "p", t("column.most")], [1, 3]), make("tbody", {}, ...rows))),
    ];
  }

  function changed() {
    keep();
    for (const node of document.querySelectorAll(".picture")) {
      const row = Number(node.dataset.row);
      const [action, value] = pictures.get(row) || [];
      node.classList.toggle("drop", action === "drop");
      for (const box of node.querySelectorAll("input")) box.checked = box.dataset.action === action;
      const select = node.querySelector("select");
      if (action === "relabel" && select) select.value = value;
      node.querySelector(".from").textContent = label(values.rows[row].label);
      node.querySelector(".to").textContent = action === "relabel" ? " → " + label(value) : "";
    }
    for (const box of document.querySelectorAll("[data-person]")) box.checked = persons.has(Number(box.dataset.person));
    for (const node of document.querySelectorAll(".card")) {
      const finding = values.shown[Number(node.dataset.finding)];
      node.classList.toggle("decided", finding.rows.some((row) => pictures.has(row)) || persons.has(Number(node.dataset.finding)));
    }
    const n = lines().length;
    document.getElementById("decided").textContent = n ? t("text.decided", { n: number(n) }) : t("text.undecided");
    for (const id of ["export", "clear"]) document.getElementById(id).disabled = !n;
  }

  function lines() {
    const found = [];
    const first = new Map();
    values.shown.forEach((finding, n) => finding.rows.forEach((row) => { if (!first.has(row)) first.set(row, n); }));
    for (const [row, [action, value]] of [...pictures].sort((a, b) => a[0] - b[0])) {
      const one = values.rows[row];
      if (one) found.push([one.path, action, value, one.label, one.content, values.shown[first.get(row)].kind]);
    }
    // Findings that share a picture are about one person, whoever was ticked first.
    const name = new Map();
    for (const n of [...persons].sort((a, b) => a - b)) {
      const rows = values.shown[n].rows;
      const known = rows.map((row) => name.get(row) || values.rows[row].group).find(Boolean);
      rows.forEach((row) => name.set(row, known || "same-" + values.rows[rows[0]].content.slice(0, 10)));
    }
    for (const [row, person] of [...name].sort((a, b) => a[0] - b[0])) {
      const one = values.rows[row];
      found.push([one.path, "same-person", person, one.label, one.content, values.shown[first.get(row)].kind]);
    }
    return found;
  }

  function save() {
    const quoted = (value) => {
      const text = /^'*[=+\-@\t\r]/.test(value) ? "'" + value : value; // never a formula
      return /[",\r\n]|^\s|\s$/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
    };
    const rows = [["path", "action", "value", "label", "content", "finding"], ...lines()];
    const text = "\ufeff" + rows.map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    const link = make("a", { href: url, download: "plan.csv" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  function draw() {
    document.documentElement.lang = language;
    document.title = t("title.page", { name: values.name });
    document.getElementById("title").textContent = t("title.page", { name: values.name });
    document.getElementById("subtitle").textContent = [
      t("text.pictures", { n: number(values.pictures) }),
      values.persons ? t("text.persons", { n: number(values.persons) }) : t("text.no_persons"),
      ...Object.entries(values.splits).map(([name, n]) => split(name) + " " + number(n)),
      values.embeddings ? t("text.embeddings", { name: values.embeddings }) : t("text.no_embeddings"),
    ].join(" · ");
    document.getElementById("language").textContent = language === "ko" ? "English" : "한국어";
    document.getElementById("export").textContent = t("button.export");
    document.getElementById("clear").textContent = t("button.clear");
    document.getElementById("made").textContent = t("text.made", { version: values.version });
    const page = document.getElementById("page");
    page.replaceChildren(...[...overview(), ...Object.keys(values.counts).map(section)].filter(Boolean));
    changed();
  }

  document.getElementById("language").addEventListener("click", () => { language = language === "ko" ? "en" : "ko"; draw(); });
  document.getElementById("export").addEventListener("click", save);
  document.getElementById("clear").addEventListener("click", () => {
    if (confirm(t("text.sure"))) { pictures.clear(); persons.clear(); changed(); }
  });
  draw();
})();
