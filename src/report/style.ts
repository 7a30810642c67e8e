/** The look of a report: one column, light or dark as the reader's system is. */
export const style = `
:root {
  --page: #fbfaf8; --card: #ffffff; --ink: #1d1d1f; --soft: #6e6e73; --line: #e4e2de;
  --train: #0b6e99; --valid: #d9730d; --grid: #edebe7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #17181a; --card: #1f2124; --ink: #ececec; --soft: #9a9a9f; --line: #313338;
    --train: #5fb6dd; --valid: #f2a65a; --grid: #2a2c30;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
header, main { max-width: 60rem; margin: 0 auto; padding: 0 1.25rem }
header { padding-top: 2.5rem }
h1 { margin: 0 0 1.25rem; font-size: 2rem; letter-spacing: -.02em; overflow-wrap: anywhere }
h2 { margin: 0 0 .25rem; font-size: 1.1rem }
.kind { margin: 0; color: var(--soft); font-size: .8rem; letter-spacing: .08em; text-transform: uppercase }
.note { margin: 0 0 1rem; color: var(--soft); font-size: .875rem }
section { margin: 0 0 1.25rem; padding: 1.25rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem 1.5rem }
.figures span { display: block; color: var(--soft); font-size: .8rem }
.figures strong { font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap }
blockquote { margin: .75rem 0 0; font: 1rem/1.6 Georgia, serif; white-space: pre-wrap; overflow-wrap: anywhere }
blockquote b { color: var(--train); font-weight: 600 }
.options { width: 100%; margin-top: .75rem; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
.options th, .options td { padding: .35rem 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top; overflow-wrap: anywhere }
.options th { width: 14rem; color: var(--soft); font-weight: 400 }
.options tr:first-child > * { border-top: 0 }
.u-legend { margin-top: .75rem; font-size: .85rem; font-variant-numeric: tabular-nums }
.u-legend th { font-weight: 400 }
`
