"use strict";
// Filters, channels, popovers and copying. The page says everything without this script; text only ever enters as text nodes.
(() => {
  const root = document.documentElement;
  root.classList.add("has-js");
  const data = JSON.parse(document.getElementById("data").textContent);
  const pop = document.getElementById("pop");
  const examples = [...document.querySelectorAll(".ex")];
  const choice = (id) => document.getElementById(id);
  const hidden = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\u{e0000}-\u{e0fff}]/gu;
  const visible = (text) => text.replace(hidden, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
  const short = (v, sign) => {
    if (v === null || v === undefined) return "–";
    if (v === 0) return "0";
    const size = Math.abs(v);
    const digits = size < 1e-4 || size >= 1e6 ? size.toExponential(2) : String(Number(size.toPrecision(3)));
    return (v < 0 ? "−" : sign ? "+" : "") + digits;
  };

  const values = (record, channel) => record.tokens.map((_, i) => {
    if (!record.mask[i]) return null;
    if (channel === "credit") return record.credit[i];
    if (channel === "surprise") return record.logp[i] === null ? null : -record.logp[i];
    const paid = record.step_reward[channel.slice("step reward: ".length)] || [];
    const value = paid[record.step[i]];
    return value === undefined ? null : value;
  });
  const limitOf = (known) => {
    const sizes = known.map(Math.abs).sort((a, b) => a - b);
    return sizes.length ? sizes[Math.ceil(0.98 * sizes.length) - 1] : 0;
  };
  const level = (v, most) => v === 0 ? 0 : most <= 0 ? 4 : Math.min(4, Math.max(1, Math.ceil(4 * Math.abs(v) / most - 1e-12)));

  const paint = (article) => {
    const record = data.examples[article.dataset.i];
    const channel = choice("channel").value;
    const unsigned = channel === "surprise";
    const found = values(record, channel);
    const known = found.filter((v) => v !== null);
    const own = choice("scale").value === "own";
    const most = own ? limitOf(known) : data.limits[channel];
    article.querySelectorAll(".tk > span").forEach((span, i) => {
      const v = found[i];
      let kind = !record.mask[i] ? "off" : v === null ? "inv" : "";
      if (v) kind = (unsigned ? "u" : v > 0 ? "p" : "n") + level(v, most) + (Math.abs(v) > most ? " c" : "");
      span.className = kind;
    });
    const scale = article.querySelector(".scale");
    if (!scale) return;
    const sum = known.reduce((a, b) => a + b, 0);
    const clipped = known.filter((v) => Math.abs(v) > most).length;
    const unit = unsigned ? " (nats, −log p when sampled)" : "";
    scale.querySelector(".chan").textContent = channel + unit + (own ? ", scale of this example" : "");
    scale.querySelector(".lo").textContent = unsigned ? "0" : short(-most);
    scale.querySelector(".hi").textContent = short(most, !unsigned);
    scale.querySelector(".sum").textContent =
      (channel.startsWith("step reward") ? "" : "sum over trajectory " + (known.length ? short(sum, !unsigned) : "–") + ", ") +
      clipped + " of " + known.length + " clipped";
    const signed = ["n4", "n3", "n2", "n1", "z", "p1", "p2", "p3", "p4"];
    const plain = ["z", "u1", "u1", "u2", "u2", "u3", "u3", "u4", "u4"];
    scale.querySelectorAll(".bar i").forEach((i, at) => { i.className = (unsigned ? plain : signed)[at]; });
  };

  const filter = () => {
    const phase = choice("phase").value, arm = choice("arm").value;
    const fits = (e) => (phase === "" || e.dataset.phase === phase) && (arm === "" || e.dataset.arm === arm);
    examples.forEach((e) => { e.hidden = !fits(e); });
    document.querySelectorAll(".pair").forEach((p) => { p.hidden = ![...p.querySelectorAll(".ex")].some(fits); });
    document.querySelectorAll(".list").forEach((list) => {
      const all = [...list.children].filter((c) => c.matches(".ex, .pair"));
      const left = all.filter((c) => !c.hidden).length;
      const told = list.querySelector(".left");
      if (told) told.textContent = left === all.length ? "" : left + " of " + all.length + " fit the filter.";
    });
    close();
  };

  let chosen = null;
  const close = () => {
    if (chosen) chosen.classList.remove("on");
    chosen = null;
    pop.hidden = true;
  };
  const open = (span) => {
    close();
    chosen = span;
    span.classList.add("on");
    const article = span.closest(".ex");
    const record = data.examples[article.dataset.i];
    const i = [...article.querySelectorAll(".tk > span")].indexOf(span);
    const lines = [["token", (i + 1) + " of " + record.tokens.length + ", step " + (record.step[i] + 1)],
      ["text", visible(JSON.stringify(record.tokens[i]))]];
    if (!record.mask[i]) lines.push(["", "not the policy's own: no credit"]);
    else if (record.credit[i] === null) {
      const why = Object.entries(record.reward).filter(([, v]) => v === null).map(([k]) => k + ": " + (record.reason[k] || "no reason stored"));
      lines.push(["credit", "no verdict" + (why.length ? ": " + visible(why.join("; ")) : "")]);
    } else lines.push(["credit", short(record.credit[i], true)]);
    const end = record.step.lastIndexOf(record.step[i]);
    for (const [name, paid] of Object.entries(record.step_reward)) {
      const value = paid[record.step[i]];
      if (value !== undefined) lines.push([visible(name), (value === null ? "no verdict" : short(value, true)) + ", paid at token " + (end + 1)]);
    }
    for (const [name, value] of Object.entries(record.reward)) {
      if (!(name in record.step_reward)) lines.push([visible(name), (value === null ? "no verdict" : short(value, true)) + ", paid at the end"]);
    }
    const logp = record.logp[i];
    if (logp !== null) lines.push(["probability", short(Math.exp(logp)) + " when sampled (log " + short(logp) + ")"]);
    const list = document.createElement("dl");
    for (const [name, text] of lines) {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = name;
      dd.textContent = text;
      list.append(dt, dd);
    }
    pop.replaceChildren(list);
    pop.hidden = false;
    const box = span.getBoundingClientRect();
    const wide = document.documentElement.clientWidth;
    pop.style.left = Math.max(8, Math.min(box.left, wide - pop.offsetWidth - 12)) + window.scrollX + "px";
    pop.style.top = box.bottom + window.scrollY + 6 + "px";
  };
  const token = (target) => target instanceof Element ? target.closest(".tk > span") : null;
  document.addEventListener("click", (event) => {
    const span = token(event.target);
    if (span) open(span);
    else if (!pop.contains(event.target)) close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return close();
    const box = event.target instanceof Element ? event.target.closest(".toks") : null;
    if (!box) return;
    const spans = [...box.querySelectorAll(".tk > span")];
    const at = spans.indexOf(chosen);
    const row = (step) => {
      if (at < 0) return 0;
      const rows = [...box.querySelectorAll(".tk")].filter((tk) => tk.firstElementChild);
      const next = rows[Math.max(0, Math.min(rows.length - 1, rows.indexOf(chosen.parentElement) + step))];
      return spans.indexOf(next.firstElementChild);
    };
    const moves = { ArrowRight: () => at + 1, ArrowLeft: () => Math.max(at - 1, 0), ArrowDown: () => row(1), ArrowUp: () => row(-1),
      Home: () => 0, End: () => spans.length - 1 };
    if (!spans.length || !(event.key in moves)) return;
    event.preventDefault();
    open(spans[Math.min(moves[event.key](), spans.length - 1)]);
    chosen.scrollIntoView({ block: "nearest", inline: "nearest" });
  });

  const copy = async (text, button) => {
    const said = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      button.textContent = document.execCommand("copy") ? "Copied" : "Could not copy";
      area.remove();
    }
    setTimeout(() => { button.textContent = said; }, 1500);
  };
  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.addEventListener("click", () => {
      const article = button.closest(".ex");
      copy(article ? JSON.stringify(data.examples[article.dataset.i], null, 1) : document.querySelector(".cmd").textContent, button);
    });
  });
  if (choice("phase")) {
    for (const id of ["phase", "arm"]) choice(id).addEventListener("change", filter);
    for (const id of ["channel", "scale"]) choice(id).addEventListener("change", () => { examples.forEach(paint); close(); });
  }
  window.addEventListener("resize", () => { if (chosen) open(chosen); });
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll(".list").forEach((list) => [...list.querySelectorAll(":scope > .ex > details, :scope > .pair > details")]
      .slice(0, 3).forEach((details) => { details.open = true; }));
  });
})();
