"""The HTML block of a pre-computed exploration: frames, controls, and the few lines of script that connect them."""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from html import escape
from typing import TypeAlias

import numpy as np
from PIL import Image

from mathcore.viz.style import over_white

Shown: TypeAlias = tuple[str, tuple[str, ...], int, bool]
"""A control on the page: label, texts of its values, where it starts, whether it is a menu."""

PAGE_WIDTH = 840
"""Largest width of a figure in CSS pixels: that of the column, as for figures without controls."""

# The filter of the book's dark theme is repeated here, so that a block looks right on any page that sets data-theme.
# The class dark-light keeps pydata-sphinx-theme from putting a white sheet behind the figure.
STYLE = """
.mc-explore{margin:1rem 0;color:var(--pst-color-text-base,#1b1b1b);font-family:var(--pst-font-family-base,sans-serif)}
.mc-explore figure{margin:0;display:grid}
.mc-explore img{grid-area:1/1;display:block;max-width:100%;height:auto;margin:0;background:none}
html[data-theme="dark"] .bd-content .bd-article .mc-explore figure img,html[data-theme="dark"] .mc-explore img{filter:invert(1) hue-rotate(180deg);
 background:none;padding:0;border-radius:0}
.mc-explore form{display:flex;flex-wrap:wrap;gap:.4rem 1.5rem;margin:0 0 .5rem;padding:.5rem .75rem;
 border:1px solid var(--pst-color-border,#c9c9c9);border-radius:.25rem;background:var(--pst-color-surface,#f5f5f5)}
.mc-explore:not([data-ready]) form{display:none}
.mc-explore label{display:flex;align-items:center;gap:.6rem;flex:1 1 16rem;min-width:0;margin:0;font-size:.95rem}
.mc-explore input{flex:1 1 6rem;min-width:4rem;min-height:1.5rem;margin:0;accent-color:var(--pst-color-primary,#0a7d91);cursor:pointer}
.mc-explore select{font:inherit;color:inherit;max-width:100%;min-height:1.75rem;padding:.1rem .3rem;
 border:1px solid var(--pst-color-text-muted,#6b6b6b);border-radius:.25rem;background:var(--pst-color-background,#fff)}
.mc-explore output{min-width:3.5em;text-align:right;font-variant-numeric:tabular-nums}
.mc-explore :is(input,select):focus-visible{outline:3px solid var(--pst-color-primary,#0a7d91);outline-offset:2px}
@media print{.mc-explore form{display:none!important}}
""".strip()

# Every block that is not yet alive is set up, whichever script runs: no ids, so that equal blocks may share a page.
SCRIPT = """
document.querySelectorAll(".mc-explore:not([data-ready])").forEach(root=>{
 const img=root.querySelector("figure").lastElementChild,data=JSON.parse(root.querySelector("script[type='application/json']").textContent);
 const controls=[...root.querySelectorAll("input,select")];
 data.frames[data.order[data.start]]=img.src.slice(img.src.indexOf(",")+1);
 const update=()=>{
  let at=0;
  controls.forEach((c,k)=>{
   const i=+c.value,text=data.texts[k][i],out=c.parentElement.querySelector("output");
   at=at*data.texts[k].length+i;
   if(out){c.setAttribute("aria-valuetext",text);if(out.value!==text)out.value=text}
  });
  const src="data:image/webp;base64,"+data.frames[data.order[at]];
  if(img.src!==src)img.src=src;
 };
 controls.forEach(c=>c.addEventListener("input",update));
 root.querySelector("form").addEventListener("submit",e=>e.preventDefault());
 root.dataset.ready="";
 update();
});
""".strip()


def _size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def same_size(frames: Sequence[bytes]) -> None:
    """Check that all PNG ``frames`` are equally large.

    Raises:
        ValueError: they are not, so the page would jump.
    """
    sizes = {_size(png) for png in frames}
    if len(sizes) > 1:
        raise ValueError(f"draw must make every figure of one size, got pixel sizes {sorted(sizes)}; give figsize a constant")


def _paper(image: Image.Image) -> Image.Image:
    sheet = Image.new("RGBA", image.size, "white")
    sheet.alpha_composite(image)
    return sheet.convert("RGB")


def on_paper(png: bytes) -> bytes:
    """Return the PNG laid on white, for places whose background is not known."""
    out = io.BytesIO()
    _paper(Image.open(io.BytesIO(png)).convert("RGBA")).save(out, "png")
    return out.getvalue()


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def _webp(pixels: np.ndarray) -> str:
    """Return RGBA ``pixels`` as base64 of a lossless WebP in 64 colours, chosen by their look on white paper; empty pixels stay empty."""
    inked = pixels[..., 3] > 0
    image = np.zeros_like(pixels)
    if inked.any():
        # colours are chosen from a strip of the inked pixels: a frame is mostly empty, and the choice takes its time by the pixel
        strip = _paper(Image.fromarray(pixels[inked][None]))
        reduced = strip.quantize(64, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        palette = np.array(reduced.getpalette()).reshape(-1, 3) / 255
        image[inked] = np.rint(over_white(palette) * 255).astype(np.uint8)[np.asarray(reduced)[0]]
    out = io.BytesIO()
    Image.fromarray(image).save(out, "webp", lossless=True, quality=80, method=4)
    return base64.b64encode(out.getvalue()).decode("ascii")


def layers(frames: Sequence[bytes]) -> tuple[str, list[str]]:
    """Return what all PNG ``frames`` have in common and what is special to each, as base64 WebP images to be laid one on the other.

    Every pixel is in exactly one layer: axes and labels, equal in all frames, are stored once, which makes a page several times smaller.
    """
    first = _pixels(frames[0])
    equal = np.ones(first.shape[:2], dtype=bool)
    for png in frames[1:]:
        equal &= (_pixels(png) == first).all(axis=2)
    special = [_webp(np.where(equal[..., None], 0, _pixels(png)).astype(np.uint8)) for png in frames]
    return _webp(np.where(equal[..., None], first, 0).astype(np.uint8)), special


def _control(label: str, texts: tuple[str, ...], start: int, menu: bool) -> str:
    name = escape(label)
    if menu:
        options = "".join(f'<option value="{i}"{" selected" if i == start else ""}>{escape(t)}</option>' for i, t in enumerate(texts))
        return f'<label><span>{name}</span><select autocomplete="off" aria-label="{name}">{options}</select></label>'
    return (
        f'<label><span>{name}</span><input type="range" min="0" max="{len(texts) - 1}" step="1" value="{start}" autocomplete="off" '
        f'aria-label="{name}" aria-valuetext="{escape(texts[start])}"><output aria-live="polite">{escape(texts[start])}</output></label>'
    )


def page(alt: str, controls: Sequence[Shown], frames: Sequence[bytes], order: Sequence[int], start: int) -> str:
    """Return one self-contained HTML block: the start frame as an image, and, where there are controls, the other frames in a script.

    Args:
        alt: alternative text of the image.
        controls: none for a still figure.
        frames: the different PNG frames.
        order: index into ``frames`` for each place of the grid of controls, last control fastest.
        start: place of the frame shown first.
    """
    width, height = _size(frames[order[start]])
    common, encoded = layers(frames)
    page_width = min(PAGE_WIDTH, width)
    size = f'class="dark-light" width="{page_width}" height="{round(page_width * height / width)}" decoding="sync"'
    still = f'<img {size} alt="" src="data:image/webp;base64,{common}">' if len(frames) > 1 else ""
    source = encoded[order[start]] if len(frames) > 1 else common
    image = f'<figure>{still}<img {size} alt="{escape(alt)}" src="data:image/webp;base64,{source}"></figure>'
    form, script = "", ""
    if controls:
        encoded[order[start]] = ""  # the page has it already
        data = {"texts": [texts for _, texts, _, _ in controls], "order": list(order), "start": start, "frames": encoded}
        # "<" is escaped so that no label can close the script element
        body = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        form = '<form aria-label="Controls of the figure">' + "".join(_control(*c) for c in controls) + "</form>"
        script = f'<script type="application/json">{body}</script><script>{SCRIPT}</script>'
    key = hashlib.sha256((alt + form + image + script).encode()).hexdigest()[:12]
    return f'<div class="mc-explore" id="explore-{key}"><style>{STYLE}</style>{form}{image}{script}</div>'
