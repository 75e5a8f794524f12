"""The style sheet of the page: system fonts, light and dark, narrow and wide, and paper.

Rules of the file:
- Text has a contrast of at least 4.5 to 1 on what it stands on, in light and in dark; a state is never said by its
  colour alone. The tints of the matrix go from grey over blue and yellow to vermilion, which every kind of sight tells
  apart, and their order is in the shapes too.
- On paper everything that is folded is open, but for what is marked `bulk`: other rounds, coalitions, notices, and of
  a capture the connections after the first.
- Nothing is fetched: no font, no image, no import.
"""

from typing import Final

CSS: Final = """
:root {
  color-scheme: light dark;
  --page: #faf9f6; --card: #ffffff; --ink: #1d1c1a; --soft: #5b5852; --line: #dcd8cf; --link: #1a5a8e;
  --good: #17603a; --good-tint: #e0f0e5; --warn: #7a4a00; --warn-tint: #fbecc8; --bad: #9c1f16; --bad-tint: #fbe0d9;
  --plain-tint: #e9edf1; --cipher: #edeff1; --share: #d9e9f6; --sum: #f8efc6; --open: #f7cfba;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  --serif: "Iowan Old Style", Charter, "Source Serif 4", Georgia, "DejaVu Serif", serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --card: #1d2023; --ink: #e9e6df; --soft: #aaa69d; --line: #373b40; --link: #8cc1ee;
    --good: #8fd6aa; --good-tint: #17351f; --warn: #f0c374; --warn-tint: #3b2c0b; --bad: #ff9f8e; --bad-tint: #48201a;
    --plain-tint: #2a2f35; --cipher: #272b30; --share: #1c3a54; --sum: #46400f; --open: #69301a;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.55 var(--sans); overflow-wrap: break-word; }
body > header, body > footer, .columns { max-width: 82rem; margin-inline: auto; padding-inline: 1.5rem; }
body > header { padding-block: 2.5rem .5rem; }
body > footer { padding-block: 2rem 3rem; color: var(--soft); font-size: .875rem; }
.columns { display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: 3rem; align-items: start; }
nav { position: sticky; top: 1.5rem; font-size: .9rem; max-height: calc(100vh - 3rem); overflow-y: auto; }
nav ol { list-style: none; margin: 0; padding: 0; border-left: 1px solid var(--line); }
nav a { display: block; padding: .3rem 0 .3rem .9rem; color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--ink); text-decoration: underline; }
h1, h2, h3 { font-family: var(--serif); font-weight: 600; line-height: 1.2; text-wrap: balance; }
h1 { font-size: clamp(1.7rem, 4vw, 2.4rem); margin: 0 0 1rem; }
h2 { font-size: 1.5rem; margin: 0 0 .8rem; }
h3 { font-size: 1.1rem; margin: 1.8rem 0 .5rem; }
.kicker { margin: 0 0 .4rem; color: var(--soft); font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; }
main > section { padding-block: 0 2.6rem; }
main > section + section { border-top: 1px solid var(--line); padding-top: 2.2rem; }
p, main ul, .findings { max-width: 68ch; }
p { margin: 0 0 .8rem; }
a { color: var(--link); text-underline-offset: .15em; }
code { font: .85em/1.5 var(--mono); overflow-wrap: anywhere; }
code.long { display: inline-block; max-width: 33ch; line-height: 1.4; }
bdi { unicode-bidi: isolate; }
.name { overflow-wrap: anywhere; }
.quiet { color: var(--soft); font-size: .925rem; }
.note { border-left: 3px solid var(--warn); padding-left: .8rem; }
.symbols { position: absolute; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px; }
.skip { position: absolute; left: 1rem; top: -5rem; background: var(--card); padding: .6rem 1rem; z-index: 9; }
.skip:focus { top: 1rem; }

.verdict { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 1.4rem; padding: 1.6rem !important;
  background: var(--card); border: 1px solid var(--line); border-left: 6px solid; border-radius: 10px;
  margin-bottom: 2.4rem; }
.verdict + section { border-top: 0 !important; padding-top: 0 !important; }
.verdict.good { border-left-color: var(--good); }
.verdict.warn { border-left-color: var(--warn); }
.verdict.bad { border-left-color: var(--bad); }
.verdict h2 { font-size: 1.7rem; margin-bottom: .4rem; }
.verdict p:last-child { margin-bottom: 0; color: var(--soft); }
.verdict .said { font-size: 1.1rem; }
.seal { width: 3.4rem; height: 3.4rem; border-radius: 50%; display: grid; place-items: center; font-size: 1.9rem;
  font-weight: 700; border: 3px solid; }
.good .seal { color: var(--good); background: var(--good-tint); }
.warn .seal { color: var(--warn); background: var(--warn-tint); }
.bad .seal { color: var(--bad); background: var(--bad-tint); border-radius: 8px; }

.mark { display: inline-flex; gap: .4em; align-items: baseline; padding: .05em .6em; border-radius: 99px;
  font-size: .875rem; font-weight: 600; }
.mark .sign { font-weight: 800; }
.mark.good { color: var(--good); background: var(--good-tint); }
.mark.warn { color: var(--warn); background: var(--warn-tint); }
.mark.bad { color: var(--bad); background: var(--bad-tint); }
.mark.plain { background: var(--plain-tint); }
.tally { display: flex; flex-wrap: wrap; gap: .6rem; }
.flag { display: inline-block; font-size: .75rem; font-weight: 600; color: var(--warn);
  margin: .2rem .6rem 0 0; }
.flag.bad { color: var(--bad); }

.facts { display: grid; gap: .55rem; margin: 0 0 1.4rem; max-width: 52rem; }
.facts > div { display: grid; grid-template-columns: 11rem minmax(0, 1fr); gap: 1rem; }
.sets { margin: 0 0 .3rem; padding: 0; list-style: none; max-height: 14rem; overflow: auto; }
.facts dt { color: var(--soft); }
.facts dd, .legend dd { margin: 0; }
.legend { display: grid; gap: .35rem 1rem; margin: 0 0 1.2rem; font-size: .9rem; }
.legend > div { display: grid; grid-template-columns: 13.5rem minmax(0, 1fr); gap: 1rem; align-items: baseline; }
.legend dt { padding: .1rem .5rem; border-radius: 4px; font-weight: 600; display: flex; gap: .5rem;
  align-items: center; }
.legend dd { color: var(--soft); }
#sequence-key { grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); margin-top: 1rem; }
#sequence-key > div { grid-template-columns: 2.6rem 1fr; gap: .5rem; }

.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: min(100%, 36rem); }
caption { text-align: left; color: var(--soft); padding: .2rem 0 .5rem; font-size: .875rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; color: var(--soft); vertical-align: bottom; border-bottom: 1px solid var(--soft); }
tbody th { font-weight: 600; min-width: 6.5rem; max-width: 18rem; }
td:has(> details) { min-width: 12rem; }
td code.long { width: 23ch; }
td details, th details { font-weight: 400; }
.inline, .inline summary { display: inline; }

.matrix { border-collapse: separate; border-spacing: 3px; }
.matrix th, .matrix td { border: 0; padding: 0; }
.matrix thead th { padding: .3rem .6rem; max-width: 11rem; min-width: 6.5rem; overflow-wrap: anywhere; }
.matrix tbody th { padding: .5rem .8rem .5rem .6rem; min-width: 8.5rem; max-width: 16rem; background: var(--page);
  position: sticky; left: 0; z-index: 1; border-left: 4px solid transparent; }
.matrix tr.wrong th { border-left-color: var(--bad); }
.matrix .role { display: block; font-weight: 400; font-size: .8rem; color: var(--soft); }
.matrix td { height: 3.1rem; border-radius: 5px; vertical-align: middle; }
.level { background: transparent; }
td.level.none { background: transparent; color: var(--soft); box-shadow: inset 0 0 0 1px var(--line); }
td.level.own { color: var(--soft);
  background: repeating-linear-gradient(135deg, transparent 0 5px, var(--line) 5px 6px); }
.level.ciphertext { background: var(--cipher); }
.level.share { background: var(--share); }
.level.aggregate { background: var(--sum); }
.level.plaintext { background: var(--open); font-weight: 600; }
.wrong td.plaintext { box-shadow: inset 0 0 0 3px var(--bad); }
.opens, .still { display: flex; gap: .5rem; align-items: center; width: 100%; height: 100%; min-height: 2.75rem;
  padding: .35rem .6rem; text-align: left; }
.opens { font: inherit; color: inherit; background: none; border: 0; cursor: pointer; border-radius: 5px; }
.matrix .opens span { text-decoration: underline dotted; text-underline-offset: .2em; }
.opens:hover { box-shadow: inset 0 0 0 2px var(--link); }
table:not(.matrix) .opens { width: auto; height: auto; min-height: 1.75rem; padding: 0 .2rem; color: var(--link);
  text-decoration: underline; }
.level.own .opens span, .level.own .still span { background: var(--page); padding: 0 .3rem; border-radius: 3px; }
.shape { width: 1.05rem; height: 1.05rem; flex: none; }
.thin { fill: none; stroke: currentColor; stroke-width: 1.2; }
.ring { fill: none; stroke: currentColor; stroke-width: 1.6; }
.full { fill: currentColor; }

.panel { background: var(--card); color: var(--ink); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.2rem 1.4rem; max-width: min(44rem, 92vw); max-height: 80vh; overflow: auto;
  box-shadow: 0 12px 40px rgb(0 0 0 / .28); }
.panel::backdrop { background: rgb(0 0 0 / .35); }
.panel .title { font: 600 1.1rem/1.3 var(--serif); }
.panel .lead { margin: .8rem 0 .2rem; font-weight: 600; font-size: .9rem; }
.refs { margin: 0 0 .6rem; padding-left: 1.1rem; font-size: .9rem; }
.entry { font: .9em var(--mono); color: var(--soft); }
.close { font: inherit; padding: .35rem 1rem; border: 1px solid var(--soft); border-radius: 6px; background: none;
  color: inherit; cursor: pointer; }
.appendix { display: none; }

details > summary { cursor: pointer; color: var(--link); width: fit-content; }
.fold { border: 1px solid var(--line); border-radius: 8px; background: var(--card); margin: 0 0 .6rem; }
.fold > summary { padding: .55rem .9rem; width: auto; font-weight: 600; }
.fold > :not(summary) { margin-inline: .9rem; }
.fold .matrix tbody th { background: var(--card); }
.fold .level.own .opens span, .fold .level.own .still span { background: var(--card); }
.findings { padding-left: 0; list-style: none; }
.findings > li { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1.1rem;
  margin-bottom: .7rem; }
.findings p { margin-bottom: .4rem; }

figure { margin-block: 0 1rem; }
.drawing { background: var(--card); max-height: 80vh; overflow: auto; }
.sequence { display: block; font: 12px var(--sans); }
.sequence .head { fill: var(--plain-tint); stroke: var(--line); }
.sequence .who { font-weight: 600; text-anchor: middle; fill: var(--ink); }
.sequence .life { stroke: var(--line); stroke-width: 1.5; }
.sequence .arrow { stroke: var(--soft); stroke-width: 1.2; }
.sequence .arrow.sealed { stroke: var(--ink); stroke-width: 2.2; }
.sequence .arrow.lost { stroke: var(--bad); stroke-dasharray: 5 4; }
.sequence .said, .sequence .noted { fill: var(--soft); text-anchor: middle; paint-order: stroke; stroke: var(--card);
  stroke-width: 4px; stroke-linejoin: round; }
.sequence .said.sealed { fill: var(--ink); font-weight: 600; }
.sequence .said.lost { fill: var(--bad); }
.sequence .noted { text-anchor: start; fill: var(--ink); }
.sequence .noted.before { text-anchor: end; }
.sequence .dot, .sequence .tip { fill: var(--ink); }
.sequence .opened { fill: var(--card); stroke: var(--ink); stroke-width: 1.6; }
.sequence .released { fill: var(--ink); }
.sequence .erased { fill: var(--card); stroke: var(--ink); stroke-width: 1.6; }
.sequence .cross { fill: none; stroke: var(--bad); stroke-width: 2; }

@media (max-width: 60rem) {
  .columns { grid-template-columns: minmax(0, 1fr); gap: 1.5rem; }
  nav { position: static; max-height: none; }
  nav ol { display: flex; flex-wrap: wrap; border: 0; gap: 0 1rem; }
  nav a { padding: .35rem 0; color: var(--link); text-decoration: underline; }
}
@media (max-width: 36rem) {
  body > header, body > footer, .columns { padding-inline: 1rem; }
  body > header { padding-top: 1.5rem; }
  .facts > div, .legend > div { grid-template-columns: minmax(0, 1fr); gap: .1rem; }
  .legend dt { width: fit-content; }
  .verdict { grid-template-columns: minmax(0, 1fr); gap: .8rem; padding: 1.1rem !important; }
  .matrix tbody th { min-width: 6.5rem; max-width: 7.5rem; }
}
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #333; --line: #bbb; --link: #000; --plain-tint: #eee;
    --good: #000; --warn: #000; --bad: #000; --good-tint: #fff; --warn-tint: #eee; --bad-tint: #ddd;
    --cipher: #f6f6f6; --share: #ececec; --sum: #e2e2e2; --open: #cfcfcf; }
  @page { margin: 16mm 14mm; }
  body { font-size: 10pt; }
  nav, .skip, .close { display: none; }
  .columns { display: block; }
  body > header, body > footer, .columns { max-width: none; padding-inline: 0; }
  h2, h3, caption, .lead, .title { break-after: avoid; }
  thead { break-inside: avoid; break-after: avoid; }
  tr, li, .verdict, .facts > div { break-inside: avoid; }
  #matrix, #sequence, #exposure, .panels { break-before: page; }
  .scroll, .drawing { overflow: visible; max-height: none; }
  .sequence { width: 100%; height: auto; max-height: 180mm; }
  .matrix .opens span { text-decoration: none; }
  .matrix tbody th { position: static; }
  .mark { border: 1px solid; }
  details:not(.bulk)::details-content { content-visibility: visible; display: block; height: auto; }
  .appendix { display: block; font: 600 15pt var(--serif); }
  .panel { display: block; position: static; max-width: none; max-height: none; overflow: visible; box-shadow: none;
    border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: .6rem 0; margin: 0; width: auto;
    height: auto; inset: auto; break-inside: avoid; }
  .panel.bulk { display: none; }
}
"""
