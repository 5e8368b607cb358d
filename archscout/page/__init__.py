"""One self-contained HTML page of a run, drawn from plain facts.

`write_report(facts, path)` wants a JSON-able mapping shaped like `shape.Facts`. Every key is optional: a section whose
facts are missing is left out with one line that says why, so that a run that is not finished gives a page too.

One section is one file, `section(facts, figures)`: it adds what plotly draws to `figures` and returns what its template
(`templates/NAME.html`) shows, or a text that says why there is nothing. report.py has their order.

Fractions (accuracies, their intervals, calibration error) are 0..1 and shown in percent. Costs are in base units:
`latency` ms for one image, `memory` bytes, `params`, `macs`, `flops` counts; times are seconds.

Every text in the facts is taken as untrusted. HTML is escaped by Jinja's autoescape, JSON inside the page carries no
`<`, `>` or `&`, texts handed to plotly (which reads pseudo-HTML) are entity-escaped, and the page's
Content-Security-Policy runs only its own two scripts, by their hashes, and allows no request to anywhere.
"""

from archscout.page.html import fill, thumbnail
from archscout.page.report import render, write_report

__all__ = ("fill", "render", "thumbnail", "write_report")
