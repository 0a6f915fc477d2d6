"""Formulas in TeX as MathML, which browsers show without a script: latex2mathml's tree, made safe, and set as TeX would set it where browsers do not."""

import html
import re
import unicodedata
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import Converter

LONGEST_FORMULA = 2_000
"""A longer formula is not set, since a parser can be made slow by its text."""

# What the page takes over from latex2mathml. Its commands can also write class, style and href of the author's choice.
ATTRIBUTES = re.compile(
    r"accent(under)?|(column|row)(align|lines|spacing)|depth|display|displaystyle|fence|form|height|largeop|linethickness|[lr]space|mathvariant|(max|min)size"
    r"|movablelimits|notation|scriptlevel|separator|stretchy|symmetric|voffset|width"
)
SIGNS, CLOSING = ("-", "+", "−", "±", "∓"), (")", "]", "}", "⟩", "|", "‖", "!", "∥")
ACCENTS = {"^": "ˆ", "~": "˜"}  # the size of accents, not of letters
AHEAD = ("∇", ")", "]", "}")  # what the name of a function keeps off, though they are operators
BARS = ("|", "‖", "∥")
MACROS = re.compile(r"\\(?:re|provide)?newcommand|\\def\b|\\let\b|\\DeclareMathOperator")  # a few of them can grow without bound
LETTERS = {"bold": "BOLD", "bold-italic": "BOLD ITALIC", "script": "SCRIPT", "double-struck": "DOUBLE-STRUCK", "fraktur": "FRAKTUR"}
LETTERS |= {"bold-script": "BOLD SCRIPT", "bold-fraktur": "BOLD FRAKTUR", "sans-serif": "SANS-SERIF", "monospace": "MONOSPACE"}
PRIMES = ("′", "″", "‴", "⁗")


def formula(tex: str, display: bool = False) -> str:
    r"""A formula in TeX as MathML.

    Args:
        tex: without delimiters, at most ``LONGEST_FORMULA`` characters. display: on a line of its own.

    Raises:
        ValueError: a command that is not known, a definition of a command, braces that do not match, or too long a formula.
    """
    if len(tex) > LONGEST_FORMULA or MACROS.search(tex):
        raise ValueError(f"a formula that is long or defines commands is not set: {tex[:80]}")
    try:
        root = Converter(display="block" if display else "inline").convert_to_element(re.sub(r"\{(aligned|gathered)\}", "{align*}", tex))
        _clean(root)
        return tostring(root, encoding="unicode").replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
    except Exception as error:  # latex2mathml has a dozen errors of its own, and some of Python's; all say that it cannot read the formula
        raise ValueError(f"not a formula ({type(error).__name__}): {tex[:80]}") from None


def _clean(element: Element) -> None:
    """Make the tree of latex2mathml safe and readable: its texts hold character references, its attributes whatever the author wrote."""
    text = html.unescape(element.text or "")
    text = {r"\|": "‖", r"\{": "{", r"\}": "}"}.get(text, text)  # as after \big
    if "\\" in text or text == "&":
        raise ValueError(f"unknown command {text}")
    element.attrib = {k: v for k, v in element.attrib.items() if ATTRIBUTES.fullmatch(k) and re.fullmatch(r"[\w .%+-]*", v)}
    if element.tag == "mo" and len(text) > 1 and text.isalpha() and "movablelimits" not in element.attrib:
        element.tag = "mi"  # KL, softmax: as an operator it would be set apart from its argument
    if element.tag == "mo" and text in BARS and not {"stretchy", "minsize"} & element.attrib.keys():
        element.set("stretchy", "false")  # the right one, under its exponent, would not grow with the left one
    if element.tag == "mi" and text == "~":
        element.tag, text = "mo", "∼"  # a relation, with space around it
    if element.tag == "mi" and re.fullmatch("[Α-Ω]", text):
        element.attrib.setdefault("mathvariant", "normal")  # upright, as TeX sets it
    if element.get("mathvariant") in LETTERS:  # browsers know the attribute no more, but the letters themselves
        text = "".join(_letter(char, LETTERS[element.attrib["mathvariant"]]) for char in text)
        del element.attrib["mathvariant"]
    element.text = text or None
    for child in element:
        _clean(child)
    if element.tag in ("msub", "msup", "msubsup") and "minsize" in element[0].attrib:
        base, element[0] = element[0], Element("mrow")  # in a row of its own a bracket with an exponent grows, too
        element[0].append(base)
    if element.tag in ("msup", "msubsup"):
        _move_prime(element)
    if element.tag == "mover" and element[1].text in ACCENTS:
        element[1].text = ACCENTS[element[1].text]
    _space(element)


def _move_prime(element: Element) -> None:
    """Set a prime in the superscript beside the base: its glyph is small and high already, and as a superscript it shrinks to a speck."""
    script = element[-1]
    first = script[0] if script.tag == "mrow" and len(script) > 1 else script
    if first.text not in PRIMES:
        return
    prime = Element("mo", lspace="0", rspace="0")
    prime.text = first.text
    if element.tag == "msup" and first is script:
        element.tag, element[1] = "mrow", prime
        return
    base, element[0] = element[0], Element("mrow")
    element[0].extend([base, prime])
    if first is script:
        element.tag = "msub"
        element.remove(script)
    else:  # an exponent follows the prime
        script.remove(first)


def _space(row: Element) -> None:
    """Set a row as TeX does where browsers do not: a thin space around the name of a function, none after a sign or about a slash or a bar."""
    before: Element | None = None
    for child in list(row) if row.tag in ("mrow", "mstyle", "mtd", "math") else []:
        joined = before is not None and (before.tag not in ("mo", "mspace") or before.text in AHEAD) and child.tag not in ("mo", "mspace")
        if child.tag == "mo" and child.text in SIGNS and (before is None or (before.tag == "mo" and before.text not in CLOSING)):
            child.set("form", "prefix")
        elif child.tag == "mo" and child.text in ("/", *BARS):
            child.attrib |= {"lspace": "0", "rspace": "0"}
        elif joined and any(_is_name(element) for element in (before, child) if element is not None):
            row.insert(list(row).index(child), Element("mspace", width="0.167em"))
        before = child


def _is_name(element: Element) -> bool:
    base = element[0] if element.tag in ("msub", "msup", "msubsup", "munder") and len(element) else element
    return base.tag == "mi" and len(base.text or "") > 1 and (base.text or "").isascii()


def _letter(char: str, kind: str) -> str:
    """The letter in another alphabet of mathematics, bold x for x; itself where there is none."""
    name = unicodedata.name(char, "").replace("LATIN ", "").replace("GREEK ", "").replace("LETTER ", "").replace("LUNATE ", "")
    for wanted in (f"MATHEMATICAL {kind} {name}", f"{kind} {name}"):  # some letters are older than the alphabet: DOUBLE-STRUCK CAPITAL R
        try:
            return unicodedata.lookup(wanted)
        except KeyError:
            continue
    return char
