//! `/status.json`: the same as the page, for programs. Fields may be added; those that are here stay.

use std::fmt::{self, Write};

use super::report::{Bar, Latency, Report};
use crate::base::history::Generation;
use crate::base::log::JsonText;
use crate::base::time::Rfc3339;

pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    let _ = write(report, &mut out);
    out.push('\n');
    out
}

fn write(report: &Report, out: &mut String) -> fmt::Result {
    let (stats, Bar { requests, errors, .. }) = (&report.stats, report.rate());
    write!(out, "{{\"program\":{}", JsonText(Some(&report.program)))?;
    write!(out, ",\"version\":{},\"pid\":{}", JsonText(report.version.as_deref()), report.pid)?;
    write!(
        out,
        ",\"generation\":{},\"phase\":{}",
        stats.generation,
        JsonText(Some(&stats.phase.to_string()))
    )?;
    write!(out, ",\"ready\":{},\"time\":\"{}\"", stats.phase.is_ready(), Rfc3339(report.time))?;
    write!(out, ",\"requests\":{{\"total\":{},\"in_flight\":{}", stats.requests, stats.in_flight)?;
    write!(out, ",\"per_second\":{requests:.2},\"errors_per_second\":{errors:.2},")?;
    write_latency(out, report.latency)?;
    write!(out, "}},\"connections\":{{\"open\":{},\"idle\":{}", stats.open, report.idle())?;
    write!(out, ",\"queued\":{},\"accepted\":{}", stats.queued, stats.accepted)?;
    write!(out, ",\"handed_over\":{},\"limit\":{}}}", stats.handed_over, stats.connections_limit)?;
    write!(out, ",\"workers\":{},\"detached_threads\":{}", stats.workers, stats.detached)?;
    write!(out, ",\"panics\":{}", stats.panics)?;
    let memory =
        [("buffered_bytes", stats.buffered_bytes), ("buffered_bytes_limit", stats.buffered_bytes_limit)];
    let disk =
        [("temporary_bytes", stats.temporary_bytes), ("temporary_bytes_limit", stats.temporary_bytes_limit)];
    memory.iter().chain(&disk).try_for_each(|(name, n)| write!(out, ",\"{name}\":{n}"))?;
    out.push_str(",\"rates\":");
    list(out, &report.chart, |out, Bar { age, requests, errors, .. }| {
        write!(
            out,
            "{{\"seconds_ago\":{age},\"per_second\":{requests:.2},\"errors_per_second\":{errors:.2}}}"
        )
    })?;
    out.push_str(",\"routes\":");
    list(out, &report.routes, |out, row| {
        write!(out, "{{\"route\":{},\"method\":\"{}\"", JsonText(Some(&row.route)), row.method)?;
        write!(out, ",\"requests\":{},\"errors\":{},", row.requests, row.errors)?;
        write_latency(out, row.latency)?;
        out.write_char('}')
    })?;
    out.push_str(",\"handlers\":");
    list(out, &report.handlers, |out, handler| {
        let (method, path) = (JsonText(Some(&handler.method)), JsonText(Some(&handler.path)));
        write!(out, "{{\"method\":{method},\"path\":{path},\"age_ms\":{}", handler.age.as_millis())?;
        write!(out, ",\"thread\":{}}}", JsonText(Some(&handler.thread)))
    })?;
    out.push_str(",\"closes\":");
    list(out, &report.closes, |out, (reason, total, recent)| {
        write!(out, "{{\"reason\":\"{reason}\",\"total\":{total},\"last_ten_minutes\":{recent}}}")
    })?;
    out.push_str(",\"last_closes\":");
    list(out, &report.last_closes, |out, (reason, close)| {
        write!(out, "{{\"at_ms\":{},\"reason\":{}", close.at, JsonText(Some(reason)))?;
        let texts = [("listener", &close.listener), ("client", &close.client), ("request", &close.request)];
        texts.into_iter().try_for_each(|(name, text)| {
            write!(out, ",\"{name}\":{}", JsonText(Some(text.as_str()).filter(|text| !text.is_empty())))
        })?;
        write!(out, ",\"requests\":{},\"age_ms\":{}}}", close.requests, close.age)
    })?;
    out.push_str(",\"generations\":");
    list(out, &report.generations, write_generation)?;
    out.write_char('}')
}

fn list<T>(
    out: &mut String,
    items: &[T],
    mut write: impl FnMut(&mut String, &T) -> fmt::Result,
) -> fmt::Result {
    out.push('[');
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        write(out, item)?;
    }
    out.write_char(']')
}

fn write_latency(out: &mut String, Latency(times): Latency) -> fmt::Result {
    for (n, (name, time)) in ["p50", "p90", "p99"].iter().zip(times).enumerate() {
        let comma = if n > 0 { "," } else { "" };
        match time {
            Some(seconds) => write!(out, "{comma}\"{name}_ms\":{:.3}", seconds * 1e3)?,
            None => write!(out, "{comma}\"{name}_ms\":null")?,
        }
    }
    Ok(())
}

fn write_generation(out: &mut String, one: &Generation) -> fmt::Result {
    let number = |n: Option<u64>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
    write!(out, "{{\"generation\":{},\"pid\":{}", one.number, one.pid)?;
    write!(out, ",\"version\":{},\"since_ms\":{}", JsonText(one.version.as_deref()), number(one.since))?;
    write!(out, ",\"until_ms\":{},\"drain_ms\":{}", number(one.until), number(one.drained))?;
    write!(out, ",\"crash\":{},\"steps\":", JsonText(one.crash.as_deref()))?;
    write_steps(out, &one.steps)?;
    out.push_str(",\"failures\":");
    let failures: Vec<_> = one.failures.iter().collect();
    list(out, &failures, |out, failed| {
        write!(out, "{{\"at_ms\":{},\"reason\":{},\"steps\":", failed.at, JsonText(Some(&failed.reason)))?;
        write_steps(out, &failed.steps)?;
        out.write_char('}')
    })?;
    out.write_char('}')
}

fn write_steps(out: &mut String, steps: &[(String, u64)]) -> fmt::Result {
    out.push('{');
    for (n, (name, ms)) in steps.iter().enumerate() {
        let comma = if n > 0 { "," } else { "" };
        write!(out, "{comma}{}:{ms}", JsonText(Some(&format!("{name}_ms"))))?;
    }
    out.write_char('}')
}
