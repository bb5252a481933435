"""The look of the pages: one dark sheet, shared by all. Nothing is fetched from anywhere else."""

from __future__ import annotations

from typing import Final

from nicegui import ui

_CSS: Final = """
:root { --ink:#e6edf3; --dim:#8b98a9; --panel:#111926; --edge:#1e2938; --accent:#4cc9f0; }
body { background:#0a0f18; color:var(--ink); font-family:Inter,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; }
.nicegui-content { padding:0; gap:0; align-items:stretch; }
.hw-page { width:100%; max-width:1500px; margin:0 auto; padding:16px; display:flex; flex-direction:column; gap:14px; }
.hw-top { display:flex; flex-wrap:wrap; align-items:center; gap:10px 18px; }
.hw-brand { font-size:21px; font-weight:700; letter-spacing:-.02em; }
.hw-brand b { color:var(--accent); }
.hw-dim { color:var(--dim); font-size:12.5px; line-height:1.45; }
.hw-pill { border:1px solid var(--edge); border-radius:99px; padding:3px 11px; font-size:12.5px; background:var(--panel); }
.hw-pill.ok::before, .hw-pill.bad::before { content:"●"; margin-right:6px; color:#5dd39e; }
.hw-pill.bad::before { color:#ff6b8b; }
.hw-grow { flex:1; }
.hw-tiles { display:grid; grid-template-columns:repeat(6,minmax(0,1fr)); gap:12px; }
.hw-tile, .hw-card { background:var(--panel); border:1px solid var(--edge); border-radius:14px; padding:13px 15px; }
.hw-tile .v { font-size:25px; font-weight:650; letter-spacing:-.02em; font-variant-numeric:tabular-nums; }
.hw-tile .u { color:var(--dim); font-size:12px; margin-left:4px; font-weight:400; }
.hw-grid { display:grid; grid-template-columns:repeat(3,minmax(0,1fr)); gap:12px; }
.hw-wide { grid-column:span 2; }
.hw-card h2 { font-size:14px; font-weight:620; margin:0; line-height:1.3; }
.hw-card .hw-dim { margin-bottom:6px; }
.hw-chart { height:214px; width:100%; }
.hw-table { width:100%; border-collapse:collapse; font-size:13px; font-variant-numeric:tabular-nums; }
.hw-table th { text-align:left; font-weight:500; color:var(--dim); font-size:12px; padding:5px 12px 5px 0; }
.hw-table td { padding:6px 12px 6px 0; border-top:1px solid var(--edge); white-space:nowrap; }
.hw-scroll { overflow-x:auto; }
.hw-state { border-radius:99px; padding:1px 9px; font-size:12px; background:#14352a; color:#5dd39e; }
.hw-state.frozen, .hw-state.paused, .hw-state.held { background:#3a2230; color:#ff8ba3; }
.hw-state.away, .hw-state.not { background:#3a2f1d; color:#f9a03f; }
.hw-ops { display:flex; flex-wrap:wrap; gap:10px 12px; align-items:center; }
@media (max-width:1100px) { .hw-tiles { grid-template-columns:repeat(3,minmax(0,1fr)); } .hw-grid { grid-template-columns:repeat(2,minmax(0,1fr)); } }
@media (max-width:700px) {
  .hw-page { padding:12px; } .hw-tiles { grid-template-columns:repeat(2,minmax(0,1fr)); gap:9px; }
  .hw-grid { grid-template-columns:minmax(0,1fr); } .hw-wide { grid-column:auto; } .hw-tile .v { font-size:21px; }
}
.ph-stage { display:flex; justify-content:center; gap:34px; padding:22px; flex-wrap:wrap; min-height:100vh; }
.ph-phone { width:390px; height:780px; border-radius:44px; border:10px solid #1a2330; background:#000; overflow:hidden;
  position:relative; box-shadow:0 24px 70px #0009; flex:none; }
.ph-feed { height:100%; overflow-y:scroll; scroll-snap-type:y mandatory; scrollbar-width:none; gap:0; flex-wrap:nowrap; }
.ph-feed::-webkit-scrollbar { display:none; }
.ph-empty { position:absolute; inset:0; display:grid; place-items:center; color:#8b98a9; font-size:14px; pointer-events:none; }
.ph-card { height:100%; width:100%; flex:none; scroll-snap-align:start; scroll-snap-stop:always; position:relative; overflow:hidden; }
.ph-art { position:absolute; inset:0; }
.ph-shade { position:absolute; inset:auto 0 0 0; height:56%; background:linear-gradient(transparent,#000d); }
.ph-glyph { position:absolute; top:27%; left:0; right:0; text-align:center; font-size:128px; font-weight:800; color:#fff; opacity:.17; letter-spacing:-.05em; }
.ph-text { position:absolute; left:20px; right:84px; bottom:36px; color:#fff; }
.ph-title { font-size:20px; font-weight:680; line-height:1.2; }
.ph-by { font-size:13.5px; opacity:.85; margin:3px 0 9px; }
.ph-chips { display:flex; gap:6px; flex-wrap:wrap; }
.ph-chip { background:#fff2; border-radius:99px; padding:2px 9px; font-size:11.5px; }
.ph-chip.new { background:#f9a03f; color:#221200; font-weight:600; }
.ph-side { position:absolute; right:14px; bottom:44px; display:flex; flex-direction:column; gap:15px; align-items:center; }
.ph-side .q-btn { background:#0007; color:#fff; width:52px; height:52px; }
.ph-side .q-btn.on { background:#ff4d6d; }
.ph-label { font-size:11px; color:#fffd; margin-top:-10px; }
.ph-bar { position:absolute; left:0; bottom:0; height:4px; background:#fff; width:0; }
.ph-card.playing .ph-bar { animation:ph-play linear forwards; }
@keyframes ph-play { to { width:100%; } }
.ph-panel { width:420px; max-width:100%; display:flex; flex-direction:column; gap:12px; }
.ph-mix { display:flex; height:19px; border-radius:6px; overflow:hidden; gap:1px; }
.ph-mix div { height:100%; } .ph-row { display:grid; grid-template-columns:66px 1fr; gap:10px; align-items:center; font-size:12px; color:var(--dim); }
.ph-back { position:absolute; z-index:5; top:14px; left:16px; right:16px; display:flex; justify-content:space-between; font-size:12.5px; }
.ph-back a { color:#fff !important; background:#0007; border-radius:99px; padding:5px 12px; text-decoration:none; }
@media (max-width:700px) {
  .ph-stage { padding:0; gap:0; } .ph-phone { width:100vw; height:100svh; border:0; border-radius:0; }
  .ph-panel { padding:16px; width:100%; }
}
"""


def apply(title: str) -> None:
    """Dress the page that is being built."""
    ui.page_title(title)
    ui.dark_mode(value=True)
    ui.colors(primary="#4cc9f0", dark="#111926", dark_page="#0a0f18")
    ui.add_css(_CSS)
