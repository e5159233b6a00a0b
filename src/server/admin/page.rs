//! `/status`: a page without outside assets. It is written here as a whole, so that it is readable without scripts; with
//! them the same parts arrive again each second.

use std::fmt::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use super::report::{Bar, Latency, Report};
use crate::base::history::{FailedHandover, Generation};
use crate::base::time::Rfc3339;

const PAGE: &str = include_str!("page.html");

/// A handler that runs for longer is marked.
const LONG: Duration = Duration::from_secs(1);

/// The page has fewer than `/status.json`: its size is bounded.
const GENERATIONS: usize = 20;
const FAILURES: usize = 3;
const CLOSES: usize = 15;
const TEXT: usize = 120;
const SHORT: usize = 50;
/// In milliseconds: no date is needed for what was since then.
const HALF_A_DAY: u64 = 12 * 3_600_000;

pub(super) fn html(report: &Report) -> String {
    let title = format!("{} {}", Text(&report.program), report.stats.phase);
    PAGE.replace("{title}", &title).replace("{body}", &body(report))
}

/// The parts of the page, each with an id.
pub(super) fn body(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_head(report, &mut out)
        .and_then(|()| write_tiles(report, &mut out))
        .and_then(|()| write_chart(report, &mut out))
        .and_then(|()| write_routes(report, &mut out))
        .and_then(|()| write_handlers(report, &mut out))
        .and_then(|()| write_generations(report, &mut out))
        .and_then(|()| write_closes(report, &mut out));
    out
}

fn write_head(report: &Report, out: &mut String) -> fmt::Result {
    let phase = &report.stats.phase;
    let colour = if phase.is_ready() { "good" } else { "warn" };
    write!(out, "<header id=head><h1>{}</h1>", Text(&report.program))?;
    if let Some(version) = &report.version {
        write!(out, "<span>{}</span>", Text(version))?;
    }
    write!(out, "<span class=\"badge {colour}\">{phase}</span>")?;
    write!(out, "<span class=dim>generation {}, process {}", report.stats.generation, report.pid)?;
    if let Some(since) = report.generations.iter().find(|one| one.number == report.stats.generation) {
        if let Some(since) = since.since {
            write!(out, ", serves for {}", ago(report.unix_ms().saturating_sub(since)))?;
        }
    }
    writeln!(out, "</span></header>")
}

fn write_tiles(report: &Report, out: &mut String) -> fmt::Result {
    let stats = &report.stats;
    out.push_str("<section id=tiles class=tiles>");
    let mut tile = |name: &str, value: String, more: &str, part: Option<(u64, u64)>| {
        write!(out, "<div class=tile><span>{name}</span><b>{value}</b><span>{more}</span>")?;
        if let Some((held, limit)) = part {
            let percent = held.saturating_mul(100).checked_div(limit).unwrap_or(0).min(100);
            write!(out, "<div class=meter><i style=\"width:{percent}%\"></i></div>")?;
        }
        out.write_str("</div>")
    };
    let present = report.rate();
    let errors = if present.errors > 0.0 {
        format!("<span class=bad>{} 5xx/s</span>", rate(present.errors))
    } else {
        format!("{} in all", count(stats.requests))
    };
    tile("requests/s", rate(present.requests), &errors, None)?;
    let Latency([p50, p90, p99]) = report.latency;
    tile("p99, ten minutes", time(p99), &format!("p50 {}, p90 {}", time(p50), time(p90)), None)?;
    tile("in flight", count(stats.in_flight), &format!("{} workers", stats.workers), None)?;
    tile("waiting for a worker", count(stats.queued), "connections", None)?;
    let idle = format!("{} idle, of {} at most", count(report.idle()), count(stats.connections_limit));
    tile("connections", count(stats.open), &idle, Some((stats.open, stats.connections_limit)))?;
    tile("streams", count(stats.detached), "detached threads", None)?;
    for (name, held, limit) in [
        ("memory of connections", stats.buffered_bytes, stats.buffered_bytes_limit),
        ("temporary files", stats.temporary_bytes, stats.temporary_bytes_limit),
    ] {
        tile(name, bytes(held), &format!("of {}", bytes(limit)), Some((held, limit)))?;
    }
    writeln!(out, "</section>")
}

fn write_chart(report: &Report, out: &mut String) -> fmt::Result {
    let most = report.chart.iter().fold(0.0, |most: f64, bar| most.max(bar.requests));
    out.push_str("<section id=chart><h2>Requests per second, ten minutes</h2>");
    write!(
        out,
        "<svg viewBox=\"0 0 600 90\" preserveAspectRatio=none role=img aria-label=\"at most {} requests per second\">",
        rate(most)
    )?;
    for Bar { age, seconds, requests, errors } in &report.chart {
        let x = 600u64.saturating_sub(*age).saturating_sub(*seconds);
        // The rest is the space between two bars.
        let width = seconds.saturating_sub(2).max(1);
        for (class, n) in [("bar", requests), ("err", errors)] {
            let height = if most > 0.0 { n / most * 88.0 } else { 0.0 };
            if height > 0.0 {
                write!(
                    out,
                    "<rect class={class} x={x} y={:.1} width={width} height={height:.1} />",
                    90.0 - height
                )?;
            }
        }
    }
    let legend = format!("at most {} requests/s; red: 5xx", rate(most));
    writeln!(
        out,
        "</svg><div class=axis><span>10 min ago</span><span>{legend}</span><span>now</span></div></section>"
    )
}

fn write_routes(report: &Report, out: &mut String) -> fmt::Result {
    out.push_str("<section id=routes><h2>Routes, ten minutes</h2>");
    if report.routes.is_empty() {
        return writeln!(out, "<p class=dim>no requests</p></section>");
    }
    out.push_str("<div class=scroll><table><tr><th>method<th>route<th class=n>requests<th class=n>5xx<th class=n>p50<th class=n>p90<th class=n>p99");
    for row in &report.routes {
        let route = if row.route.is_empty() {
            "<span class=dim>no route</span>".to_owned()
        } else {
            Text(&row.route).to_string()
        };
        let errors = match row.errors {
            0 => "0".to_owned(),
            n => format!("<span class=bad>{}</span>", count(n)),
        };
        write!(
            out,
            "<tr><td>{}<td class=path>{route}<td class=n>{}<td class=n>{errors}",
            row.method,
            count(row.requests)
        )?;
        row.latency.0.iter().try_for_each(|quantile| write!(out, "<td class=n>{}", time(*quantile)))?;
    }
    writeln!(out, "</table></div></section>")
}

fn write_handlers(report: &Report, out: &mut String) -> fmt::Result {
    out.push_str("<section id=handlers><h2>Handlers and streams that run now</h2>");
    if report.handlers.is_empty() {
        return writeln!(out, "<p class=dim>none</p></section>");
    }
    out.push_str("<div class=scroll><table><tr><th>method<th>path<th class=n>age<th class=n>thread");
    for handler in &report.handlers {
        let class = if handler.age >= LONG { "n warn" } else { "n" };
        let (age, thread) =
            (time(Some(handler.age.as_secs_f64())), Text(handler.thread.trim_start_matches("heirloom-")));
        write!(out, "<tr><td>{}<td class=path>{}", Text(&handler.method), Text(&handler.path))?;
        write!(out, "<td class=\"{class}\">{age}<td class=n>{thread}")?;
    }
    writeln!(out, "</table></div></section>")
}

fn write_generations(report: &Report, out: &mut String) -> fmt::Result {
    out.push_str("<section id=generations><h2>Generations <small class=dim>times in UTC</small></h2><ol>");
    for one in report.generations.iter().take(GENERATIONS) {
        write_generation(one, report, out)?;
    }
    writeln!(out, "</ol></section>")
}

/// The steps of a handover in their order, and the drain, each with its colour.
fn write_generation(one: &Generation, report: &Report, out: &mut String) -> fmt::Result {
    write!(out, "<li><b>{}</b> <span class=dim>process {}", one.number, one.pid)?;
    if let Some(version) = &one.version {
        write!(out, ", {}", Text(version))?;
    }
    out.push_str("</span> ");
    match (one.since, one.until) {
        (None, _) => out.push_str("<span class=dim>before it served</span>"),
        (Some(since), None) => write!(out, "<span class=good>serves</span> since {}", clock(since))?,
        (Some(since), Some(until)) => {
            write!(out, "served for {}, until {}", ago(until.saturating_sub(since)), clock(until))?;
            if let Some(crash) = &one.crash {
                write!(out, ", <span class=bad>crashed</span>: {}", Text(crash))?;
            } else if one.drained.is_none() {
                write!(
                    out,
                    ", <span class=warn>drains</span> for {}",
                    ago(report.unix_ms().saturating_sub(until))
                )?;
            }
        }
    }
    let steps = one.steps.iter().map(|(name, ms)| (name.as_str(), *ms)).zip(1..);
    // The last of the colours.
    let drain = one.drained.map(|ms| (("drain", ms), 6));
    write_steps(&steps.chain(drain).collect::<Vec<_>>(), out)?;
    for FailedHandover { at, reason, .. } in one.failures.iter().rev().take(FAILURES) {
        write!(out, "<div class=fail>{}: handover failed: {}</div>", clock(*at), Text(reason))?;
    }
    match one.failures.len().saturating_sub(FAILURES) {
        0 => {}
        more => write!(out, "<div class=fail>and {more} before</div>")?,
    }
    writeln!(out, "</li>")
}

/// Each step has a name, milliseconds, and the number of a colour.
fn write_steps(steps: &[((&str, u64), u32)], out: &mut String) -> fmt::Result {
    if steps.is_empty() {
        return Ok(());
    }
    out.push_str("<div class=steps>");
    for ((_, ms), colour) in steps {
        write!(out, "<i class=c{colour} style=\"flex:{} 0 0\"></i>", ms.max(&1))?;
    }
    out.push_str("</div><div class=key>");
    for ((name, ms), colour) in steps {
        write!(out, "<span><i class=c{colour}></i>{} {}</span>", Text(name), ago(*ms))?;
    }
    out.write_str("</div>")
}

fn write_closes(report: &Report, out: &mut String) -> fmt::Result {
    out.push_str("<section id=closes><h2>Connections closed</h2>");
    if report.closes.is_empty() {
        return writeln!(out, "<p class=dim>none</p></section>");
    }
    out.push_str("<div class=scroll><table><tr><th>reason<th class=n>ten minutes<th class=n>in all");
    for (reason, total, recent) in &report.closes {
        write!(out, "<tr><td>{reason}<td class=n>{}<td class=n>{}", count(*recent), count(*total))?;
    }
    out.push_str("</table></div>");
    write_last_closes(report, out)?;
    writeln!(out, "</section>")
}

fn write_last_closes(report: &Report, out: &mut String) -> fmt::Result {
    if report.last_closes.is_empty() {
        return Ok(());
    }
    out.push_str("<h3>The last ones <small class=dim>without those that the client ended</small></h3>");
    out.push_str("<div class=scroll><table><tr><th>time<th>reason<th>request<th>client<th class=n>requests<th class=n>age<th class=n>listener");
    for (reason, close) in report.last_closes.iter().take(CLOSES) {
        let at = clock(close.at);
        let is_recent = report.unix_ms().saturating_sub(close.at) < HALF_A_DAY;
        // After the date and a blank.
        let at = at.get(11..).filter(|_| is_recent).unwrap_or(&at);
        write!(out, "<tr><td>{at}<td>{}<td class=code>{}", Text(reason), short(&close.request))?;
        write!(out, "<td class=code>{}<td class=n>{}", Text(&close.client), count(close.requests))?;
        write!(out, "<td class=n>{}<td class=\"n code\">{}", ago(close.age), short(&close.listener))?;
    }
    out.write_str("</table></div>")
}

/// The start of a text in HTML. Paths and reasons may hold what clients have sent.
struct Text<'a>(&'a str);

/// As [`Text`], for narrow columns.
fn short(text: &str) -> String {
    match text.char_indices().nth(SHORT).and_then(|(end, _)| text.get(..end)) {
        Some(start) => format!("{}…", Text(start)),
        None => Text(text).to_string(),
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.0.chars().nth(TEXT).is_some() { "…" } else { "" };
        self.0.chars().take(TEXT).try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c if c.is_control() => f.write_char('\u{fffd}'),
            c => f.write_char(c),
        })?;
        f.write_str(end)
    }
}

/// Milliseconds since 1970 as date and time, in UTC.
fn clock(ms: u64) -> String {
    let text = Rfc3339(UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)).to_string();
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

/// Milliseconds as a duration for people.
fn ago(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        3_600_000..172_800_000 => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

/// Seconds.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "–".to_owned(),
        Some(s) if s < 0.001 => format!("{:.0} µs", s * 1e6),
        Some(s) if s < 0.01 => format!("{:.1} ms", s * 1e3),
        Some(s) if s < 1.0 => format!("{:.0} ms", s * 1e3),
        Some(s) if s < 60.0 => format!("{s:.1} s"),
        Some(s) => format!("{:.0} min", s / 60.0),
    }
}

fn rate(n: f64) -> String {
    if n < 10.0 && n > 0.0 { format!("{n:.1}") } else { count_text(&format!("{n:.0}")) }
}

fn count(n: u64) -> String {
    count_text(&n.to_string())
}

/// With commas between thousands.
fn count_text(digits: &str) -> String {
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && digits.len().saturating_sub(n) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(n: u64) -> String {
    match n {
        0..1_024 => format!("{n} B"),
        1_024..1_048_576 => format!("{} KiB", n >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", n >> 20),
        _ => format!("{}.{} GiB", n >> 30, ((n & 0x3fff_ffff) >> 20) / 103),
    }
}
