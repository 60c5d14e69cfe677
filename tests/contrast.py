"""Whether text can be read on what lies behind it."""

from __future__ import annotations

CONTRAST = """(element) => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const clear = (node) => parse(getComputedStyle(node).backgroundColor)[3] === 0;
  let behind = element;
  while (behind.parentElement && clear(behind)) behind = behind.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(parse).map(luminance);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
"""A script for an element: the contrast of its text with what lies behind it, as WCAG 2 defines it."""
