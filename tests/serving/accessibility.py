"""Simple checks of what everybody must be able to use; they find the plain mistakes, not all."""

from tests.serving.browser import Browser

LEAST_CONTRAST = 4.5
"""Of text, by WCAG 2.2, level AA."""

_NAMELESS = """
    const kinds = "button, a, input, select, summary, dialog, progress, canvas, [role=tab], [role=group], [role=img]";
    const text = (id) => document.getElementById(id)?.textContent ?? "";
    const name = (e) => [e.getAttribute("aria-label"), text(e.getAttribute("aria-labelledby")),
        e.labels?.[0]?.textContent, e.textContent, e.alt].some((words) => words?.trim());
    return [...document.querySelectorAll(kinds)].filter((e) => e.checkVisibility() && !name(e))
        .map((e) => e.outerHTML.slice(0, 120));
"""

# Text over the camera's image stands on plates of its own; over the empty stage the lightest part of its shade
# counts.
_LOW_CONTRAST = """
    const numbers = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
    const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            if (e.matches(".stage")) return [36, 50, 58];
            const color = numbers(getComputedStyle(e).backgroundColor);
            if (color.length === 3 || color[3] > 0.95) return color;
        }
        return [255, 255, 255];
    };
    const hasText = (e) => [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim());
    const counts = (e) => e.checkVisibility() && hasText(e) && !e.closest(":disabled, .sr-only, .skip, option");
    return [...document.querySelectorAll("body *")].filter(counts).flatMap((e) => {
        const [a, b] = [light(numbers(getComputedStyle(e).color)), light(behind(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        return ratio < arguments[0] ? [`${ratio.toFixed(2)}: ${e.outerHTML.slice(0, 120)}`] : [];
    });
"""


def nameless(page: Browser) -> list[str]:
    """Controls and images in sight that a screen reader has no name for."""
    return page.js(_NAMELESS)


def low_contrast(page: Browser) -> list[str]:
    """Elements whose text stands out too little, with their ratio."""
    return page.js(_LOW_CONTRAST, LEAST_CONTRAST)
