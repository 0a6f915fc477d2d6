// On paper nothing can be unfolded: open what is folded before printing.
window.addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll("details.sd-dropdown")) box.open = true;
});

// On a phone the cells of a table of words stand one below the other (book.css): each then says which column it was in.
function nameColumns(table) {
  const heads = [...table.querySelectorAll("thead th")];
  for (const row of table.querySelectorAll("tbody tr")) {
    [...row.children].forEach((cell, k) => {
      const said = cell.textContent.trim();
      if (!said) cell.classList.add("empty");
      if (!said || !heads[k]?.textContent.trim() || (k === 0 && !/^\d+$/.test(said))) return; // words in the first cell name the row
      const name = document.createElement("span");
      name.className = "column-name";
      name.append(...[...heads[k].childNodes].map((node) => node.cloneNode(true)));
      cell.prepend(name);
    });
  }
}

// A line must not begin with the full stop that follows a formula, nor end with the bracket that precedes one.
function keepPunctuation(formula) {
  const before = formula.previousSibling, after = formula.nextSibling;
  const left = before?.nodeType === Node.TEXT_NODE ? before.data.match(/[([]$/) : null;
  const right = after?.nodeType === Node.TEXT_NODE ? after.data.match(/^[.,;:?!)\]]+/) : null;
  if (!left && !right) return;
  const together = document.createElement("span");
  together.className = "together";
  formula.replaceWith(together);
  together.append(formula);
  if (left) {
    before.data = before.data.slice(0, -1);
    together.prepend(left[0]);
  }
  if (right) {
    after.data = after.data.slice(right[0].length);
    together.append(right[0]);
  }
}

// A formula that goes on beyond the edge fades there until it is scrolled to its end.
function fadeWhereItGoesOn() {
  for (const box of document.querySelectorAll(".bd-article :is(div.math, span.math)")) {
    const formula = box.querySelector("mjx-math, svg");
    if (!formula) continue;
    const scroller = box.matches("div.math") ? box.querySelector("mjx-container") : box;
    const mark = () => box.classList.toggle("goes-on", formula.getBoundingClientRect().right > scroller.getBoundingClientRect().right + 2);
    if (!box.dataset.watched) {
      box.dataset.watched = "yes";
      scroller.addEventListener("scroll", mark, { passive: true });
      window.addEventListener("resize", mark, { passive: true });
      box.closest("details")?.addEventListener("toggle", mark);
    }
    mark();
  }
}

// After MathJax, whose formulas are copied and measured.
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  document.querySelectorAll(".bd-article table.table").forEach((table) => {
    if (!table.closest(".cell_output")) nameColumns(table);
  });
  document.querySelectorAll(".bd-article span.math").forEach(keepPunctuation);
  fadeWhereItGoesOn();
});
