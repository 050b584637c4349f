"""The report as one HTML file that needs nothing else: no scripts, no fonts, no pictures from elsewhere."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from reco_ray.evaluation import charts
from reco_ray.evaluation.bootstrap import Interval
from reco_ray.evaluation.findings import details, headline, limits, stage_label, tone, verdict
from reco_ray.evaluation.report import METRICS, UNION, EvaluationReport
from reco_ray.evaluation.variety import variety_section

__all__ = ["STYLE", "figure", "render_html"]

_TOP_FEATURES = 10

STYLE = """
:root{color-scheme:light dark;--bg:#fcfcfa;--ink:#1b1f24;--soft:#5d6670;--rule:#dfe2e0;--panel:#fff;--accent:#0b6e69;
--tint:#e5f1f0;--source:#8fbcb8;--base:#adb3b8;--good:#0b6e4f;--bad:#b3261e;
--c0:#2f6fb3;--c1:#c2571a;--c2:#7a4fa3;--c3:#a07c00;--c4:#b0396f;--c5:#4d7a2a}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--ink:#e8eaec;--soft:#9aa4ad;--rule:#2f353b;--panel:#1a1e22;
--accent:#4cc2b8;--tint:#1b3230;--source:#3f7f7a;--base:#565d64;--good:#58c99a;--bad:#ff8a80;
--c0:#74aef0;--c1:#f0975c;--c2:#b993e6;--c3:#d9b93b;--c4:#ea80b0;--c5:#9bcb70}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:break-word}
main{max-width:1120px;margin:0 auto;padding:40px 24px 56px}
.kicker{color:var(--accent);font-weight:600;font-size:14px;margin:0 0 8px}
h1{font-size:clamp(23px,3.4vw,32px);line-height:1.22;letter-spacing:-.012em;margin:0 0 16px;max-width:34em;text-wrap:balance}
h2{font-size:20px;line-height:1.3;margin:48px 0 6px}
h3{font-size:16px;line-height:1.35;margin:0 0 2px}
p,ul{margin:0 0 12px;max-width:70ch}ul{padding-left:1.2em}li{margin-bottom:6px}
.lead{font-size:18px}.soft,figcaption{color:var(--soft)}.soft,figcaption,footer{font-size:14px}
.wide{overflow-x:auto;margin-top:12px;border:1px solid var(--rule);border-radius:8px;background:var(--panel)}
table{border-collapse:collapse;width:100%}
th,td{padding:9px 14px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule);vertical-align:top}
thead th{font-size:13px;font-weight:600;color:var(--soft);vertical-align:bottom}tbody tr:last-child>*{border-bottom:0}
.pairs tbody th,.pairs td{white-space:normal}.pairs small{white-space:nowrap}
th:first-child{text-align:left;position:sticky;left:0;background:var(--panel)}tbody th{font-weight:500}
th small,td small{font-weight:400;display:block;color:var(--soft);font-size:12px;line-height:1.3}
tr.served>*{background:var(--tint)!important;font-weight:650}details{margin-top:12px}summary{cursor:pointer;margin-bottom:8px}
.gain{color:var(--good)}.loss{color:var(--bad)}.chance{color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:20px;margin-top:16px}
figure{margin:0;padding:18px 18px 10px;border:1px solid var(--rule);border-radius:8px;background:var(--panel);min-width:0}
figcaption{margin-bottom:8px}
svg{display:block;width:100%;max-width:560px;height:auto;margin:0 auto;font-size:13px}
svg text{fill:var(--ink)}svg .tick{fill:var(--soft);font-size:12px}svg .value{font-weight:600}
.grid{stroke:var(--rule)}.axis{stroke:var(--soft)}.whisker{stroke:var(--ink);stroke-width:1.3;opacity:.75}
.base{fill:var(--base)}.source{fill:var(--source)}.pipeline{fill:var(--accent)}
polyline{fill:none;stroke-width:2;stroke-linejoin:round}.way{stroke:var(--accent);stroke-dasharray:3 4;stroke-width:1.5}
.union polyline{stroke:var(--accent);stroke-width:3.2}.union circle,.union text.series{fill:var(--accent);font-weight:650}
SERIES
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:0}
dt{color:var(--soft)}dd{margin:0;min-width:0;overflow-wrap:anywhere}
footer{margin-top:48px;padding-top:18px;border-top:1px solid var(--rule)}footer h2{margin-top:0;font-size:16px}
code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media(max-width:600px){main{padding:24px 16px 40px}th,td{padding:8px 10px}figure{padding:14px 10px 6px}.lead{font-size:17px}
tbody th{white-space:normal;min-width:6.5em}h2{margin-top:36px}}
@media print{figure,tr{break-inside:avoid}}
""".replace(
    "SERIES",
    "".join(f".s{i} polyline{{stroke:var(--c{i})}}.s{i} circle,.s{i} text.series{{fill:var(--c{i})}}\n" for i in range(6)),
)


def render_html(report: EvaluationReport) -> str:
    """Lay the report out as a page: the finding, the stages with intervals, the charts, the limits, how to repeat it.

    All text of the report is escaped. The page loads nothing, works from 400 px width, and follows the reader's light or
    dark setting.
    """
    parts = (
        f'<p class="kicker">{escape(report.title)} · offline evaluation</p><h1>{escape(headline(report))}</h1>',
        f'<p class="lead">{escape(" ".join(details(report)))}</p>',
        f'<p class="soft">{report.n_users:,} users, lists of {report.k}, {report.made_ts:%d %B %Y}.</p>',
        _stages(report),
        _figures(report),
        variety_section(report.variety, report.k),
        _differences(report),
        _slices(report),
        _split(report),
        _footer(report),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(report.title)}: offline evaluation</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )


def _stages(report: EvaluationReport) -> str:
    keys = [key for key in METRICS if any(key in s.metrics for s in report.stages)]
    head = "".join(f"<th scope=col>{escape(METRICS[key].label.format(k=report.k))}</th>" for key in keys)
    rows = []
    for stage in report.stages:
        cells = "".join(f"<td>{_cell(stage.metrics.get(key), METRICS[key].pattern)}</td>" for key in keys)
        served = ' class="served"' if stage is report.stages[-1] else ""
        rows.append(f"<tr{served}><th scope=row>{escape(stage_label(stage.stage))}</th>{cells}</tr>")
    meanings = "".join(
        f"<dt>{escape(METRICS[key].label.format(k=report.k))}</dt><dd>{escape(METRICS[key].meaning)}</dd>" for key in keys
    )
    return (
        "<section><h2>Stage by stage</h2>"
        f"<p class=soft>Small figures: {report.confidence:.0%} interval over users. The tinted row is what is served.</p>"
        '<div class="wide" role="region" aria-label="Stages" tabindex=0><table>'
        f"<thead><tr><th scope=col>Stage</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f"<details><summary class=soft>What the columns mean</summary><dl class=soft>{meanings}</dl></details></section>"
    )


def _figures(report: EvaluationReport) -> str:
    k, figures = report.k, []
    scored = [s for s in report.stages if "ndcg" in s.metrics and math.isfinite(s.metrics["ndcg"].mean)]
    if scored:
        marks = [charts.Mark(stage_label(s.stage), s.metrics["ndcg"], tone(s.stage)) for s in scored]
        figures.append(
            figure(
                f"NDCG@{k} of each stage",
                "Grey: baselines; light: single sources; dark: the pipeline. "
                f"Whiskers: {report.confidence:.0%} interval over users.",
                charts.bars(marks, f"NDCG@{k} of each stage", _digits),
            )
        )
    if any(report.candidate_recall.values()):
        text = "Share of what users took that is among the first candidates: the ranker cannot do better than this."
        drawing = charts.curves(report.candidate_recall, "Recall of the candidates", UNION, "candidates (log scale)")
        figures.append(figure("Recall of the candidates", text, drawing))
    spread = [s for s in scored if "coverage" in s.metrics and s.metrics["coverage"].mean > 0]
    if spread:
        marks = [
            charts.Mark(stage_label(s.stage), s.metrics["ndcg"], tone(s.stage), s.metrics["coverage"].mean) for s in spread
        ]
        drawing = charts.scatter(marks, "Accuracy and coverage", "catalogue coverage (log scale)", f"NDCG@{k}")
        figures.append(figure("Accuracy and coverage", "Up is more accurate, right shows more of the catalogue.", drawing))
    total = sum(gain for _, gain in report.importances)
    if total > 0:
        top = report.importances[:_TOP_FEATURES]
        marks = [charts.Mark(name, Interval.point(gain / total), "source") for name, gain in top]
        text = f"Share of the gain of all listed features, first {len(top)} of {len(report.importances)}."
        figures.append(figure("What the ranker looks at", text, charts.bars(marks, "Feature importances", _percent)))
    return f'<section><h2>In pictures</h2><div class="charts">{"".join(figures)}</div></section>' if figures else ""


def figure(title: str, text: str, drawing: str) -> str:
    return f"<figure><h3>{escape(title)}</h3><figcaption>{escape(text)}</figcaption>{drawing}</figure>"


def _differences(report: EvaluationReport) -> str:
    if not report.differences:
        return ""
    rows = []
    for d in report.differences:
        metric = METRICS[d.metric].label.format(k=report.k) if d.metric in METRICS else d.metric
        word = verdict(d)
        style = {"clear gain": "gain", "clear loss": "loss", "could be chance": "chance"}.get(word, "")
        interval = f"{_signed(d.interval.low)} to {_signed(d.interval.high)}" if d.interval.known else "–"
        name = f"{escape(stage_label(d.stage))} <span class=soft>against</span> {escape(stage_label(d.baseline))}"
        rows.append(
            f"<tr><th scope=row>{name}<small>{escape(metric)}</small></th>"
            f'<td>{_signed(d.interval.mean)}<small>{interval}</small></td><td class="{style}">{word}</td></tr>'
        )
    return (
        "<section><h2>Is the difference real?</h2><p class=soft>Both stages are compared on the same users, so that easy "
        "and hard users cancel out: smaller differences show than in the table above. Small figures: "
        f"{report.confidence:.0%} interval.</p>"
        '<div class="wide" role="region" aria-label="Differences" tabindex=0><table class="pairs">'
        "<thead><tr><th scope=col>Compared</th><th scope=col>Difference</th><th scope=col>Verdict</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _slices(report: EvaluationReport) -> str:
    if not report.slices:
        return ""
    rows = []
    for s in report.slices:
        pattern, label = METRICS[s.metric].pattern, METRICS[s.metric].label.format(k=report.k)
        names = (s.of, s.name, stage_label(s.stage), label)
        cells = f"<td>{s.users:,}</td><td>{_cell(s.value, pattern)}</td><td>{_cell(s.delta, '+' + pattern)}</td>"
        rows.append(f"<tr><th scope=row>{'</th><td>'.join(escape(name) for name in names[:2])}</td>")
        rows.append(f"<td>{'</td><td>'.join(escape(name) for name in names[2:])}</td>{cells}</tr>")
    heads = "".join(f"<th scope=col>{name}</th>" for name in ("Divided", "Part", "Stage", "Metric", "Users", "Value", "Delta"))
    return (
        "<section><h2>For whom</h2><p class=soft>Delta: against the other users, or what users took of the other items; below "
        'zero is worse off.</p><div class="wide" role="region" aria-label="Slices" tabindex=0><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _split(report: EvaluationReport) -> str:
    parts = ", ".join(f"{escape(part)} {n:,}" for part, n in report.n_events.items())
    known = math.isfinite(report.cold_share)
    cold = f" Of the users with events in the test part, {report.cold_share:.1%} had none before it." if known else ""
    return (
        f"<section><h2>How the test was made</h2><p>{escape(report.split_explanation)}{cold}</p>"
        f"<p>Events: {parts}.</p><h2>What this does not show</h2>{_list(limits(report))}</section>"
    )


def _footer(report: EvaluationReport) -> str:
    versions = ", ".join(f"{table} v{version}" for table, version in report.lake_versions.items())
    facts: Sequence[tuple[str, str]] = (
        ("Commit", report.commit),
        ("Config", report.config_hash),
        ("Lake", versions or "–"),
        ("Split", report.split_kind),
        ("Seed", f"{report.seed}, {report.resamples:,} resamples"),
        ("Made", f"{report.made_ts:%Y-%m-%d %H:%M %Z}, in {report.seconds:.1f} s".replace(" ,", ",")),
    )
    items = "".join(f"<dt>{name}</dt><dd><code>{escape(value)}</code></dd>" for name, value in facts)
    return f"<footer><h2>To repeat this</h2><dl>{items}</dl></footer>"


def _list(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def _cell(found: Interval | None, pattern: str) -> str:
    if found is None or not math.isfinite(found.mean):
        return "–"
    bounds = f"<small>{found.low:{pattern}}–{found.high:{pattern}}</small>" if found.known else ""
    return f"{found.mean:{pattern}}{bounds}"


def _digits(value: float) -> str:
    return f"{value:.3f}" if value else "0"


def _percent(value: float) -> str:
    return f"{value:.0%}" if value >= 0.1 or not value else f"{value:.1%}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "–"
