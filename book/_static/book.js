// On paper nothing can be unfolded: open what is folded before printing.
window.addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll("details.sd-dropdown")) box.open = true;
});
