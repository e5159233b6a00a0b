//! The pages for operators and programmers, which are also beside the sources, in `docs/`. What most of them are for:
//!
//! - to run a service: [`deployment`], [`signals`], [`handover`], [`control`], [`systemd`], [`supervision`], [`configuration`], [`log`],
//!   [`metrics`], [`tls`], [`proxies`], [`security`], [`scaling`];
//! - to write one: [`forms`], [`streaming`], [`deadlines`], [`lifecycle`], [`tiny_http`], [`migration`];
//! - to judge it: [`reliability`], [`performance`], [`http`], [`versions`].
//!
//! # Files of the repository
//!
//! Where a page links a file that is not part of this documentation, such as `contrib/systemd`, `bench/README.md` or
//! `ARCHITECTURE.md`, the file is in the repository of the crate.

// A page links others by their files, as `[signals][signals.md]`, and defines these links at its end: so they lead to files where
// the page is read as a file. Of two definitions of a link the first one holds, which is that of here, where it is part of rustdoc.
// Plots are no part of rustdoc, which shows their titles.
macro_rules! links {
    () => {
        "\
[../ARCHITECTURE.md#the-protocol]: crate::guide#files-of-the-repository
[../SECURITY.md]: crate::guide#files-of-the-repository
[../bench/README.md]: crate::guide#files-of-the-repository
[../bench/callgrind.txt]: crate::guide#files-of-the-repository
[../contrib/deploy]: crate::guide#files-of-the-repository
[../contrib/docker]: crate::guide#files-of-the-repository
[../contrib/grafana]: crate::guide#files-of-the-repository
[../contrib/haproxy/haproxy.cfg]: crate::guide#files-of-the-repository
[../contrib/kubernetes]: crate::guide#files-of-the-repository
[../contrib/openrc/app]: crate::guide#files-of-the-repository
[../contrib/prometheus]: crate::guide#files-of-the-repository
[../contrib/runit/app/run]: crate::guide#files-of-the-repository
[../contrib/s6/app/run]: crate::guide#files-of-the-repository
[../contrib/supervisor/app.conf]: crate::guide#files-of-the-repository
[../contrib/systemd]: crate::guide#files-of-the-repository
[../src/net/acceptor/accepting.rs]: crate::guide#files-of-the-repository
[../src/net/scheduler/policy.rs]: crate::guide#files-of-the-repository
[../src/web/error_pages.rs]: crate::error_pages
[../src/web/wrap/mod.rs]: crate::wrap
[configuration.md]: crate::guide::configuration
[configuration.md#descriptors]: crate::guide::configuration#descriptors
[configuration.md#listen]: crate::guide::configuration#listen
[control.md]: crate::guide::control
[control.md#by-pid-file-alone]: crate::guide::control#by-pid-file-alone
[control.md#heirloomctl]: crate::guide::control#heirloomctl
[deadlines.md]: crate::guide::deadlines
[deployment.md]: crate::guide::deployment
[deployment.md#in-a-container]: crate::guide::deployment#in-a-container
[deployment.md#two-generations-under-a-memory-limit]: crate::guide::deployment#two-generations-under-a-memory-limit
[forms.md#forms-with-files]: crate::guide::forms#forms-with-files
[forms.md#sessions]: crate::guide::forms#sessions
[handover.md#minimal-hosts]: crate::guide::handover#minimal-hosts
[handover.md#scripts-around-the-program]: crate::guide::handover#scripts-around-the-program
[handover.md#what-is-inherited]: crate::guide::handover#what-is-inherited
[handover.md#when-something-is-wrong]: crate::guide::handover#when-something-is-wrong
[handover.md#where-a-handover-is-refused]: crate::guide::handover#where-a-handover-is-refused
[handover.md#why-the-new-process-failed]: crate::guide::handover#why-the-new-process-failed
[http.md]: crate::guide::http
[http.md#paths]: crate::guide::http#paths
[lifecycle.md]: crate::guide::lifecycle
[log.md]: crate::guide::log
[log.md#json-and-tracing]: crate::guide::log#json-and-tracing
[metrics.md]: crate::guide::metrics
[metrics.md#why-tls-connections-stay]: crate::guide::metrics#why-tls-connections-stay
[performance.md]: crate::guide::performance
[proxies.md]: crate::guide::proxies
[scaling.md]: crate::guide::scaling
[security.md#users-of-browsers]: crate::guide::security#users-of-browsers
[signals.md]: crate::guide::signals
[signals.md#a-stop]: crate::guide::signals#a-stop
[signals.md#other-meanings-and-hooks]: crate::guide::signals#other-meanings-and-hooks
[signals.md#when-a-terminal-is-closed]: crate::guide::signals#when-a-terminal-is-closed
[soak/descriptors.svg]: data:image/svg+xml,
[soak/handovers.svg]: data:image/svg+xml,
[soak/latency.svg]: data:image/svg+xml,
[soak/memory.svg]: data:image/svg+xml,
[soak/requests.svg]: data:image/svg+xml,
[soak/threads.svg]: data:image/svg+xml,
[streaming.md]: crate::guide::streaming
[streaming.md#streams-that-outlive-the-process]: crate::guide::streaming#streams-that-outlive-the-process
[supervision.md]: crate::guide::supervision
[supervision.md#under-systemd]: crate::guide::supervision#under-systemd
[systemd.md]: crate::guide::systemd
[systemd.md#sockets-from-systemd]: crate::guide::systemd#sockets-from-systemd
[tiny_http.md]: crate::guide::tiny_http
[tiny_http.md#rouille]: crate::guide::tiny_http#rouille
[security.md#keys-of-tls]: crate::guide::security#keys-of-tls
[security.md#session-tickets]: crate::guide::security#session-tickets
[tls.md]: crate::guide::tls
[tls.md#closes-spread-over-time]: crate::guide::tls#closes-spread-over-time
[tls.md#resumption]: crate::guide::tls#resumption
"
    };
}

macro_rules! pages {
    ($($name:ident)*) => {$(
        #[doc = links!()]
        #[doc = ""]
        #[doc = include_str!(concat!(stringify!($name), ".md"))]
        pub mod $name {}
    )*};
}

pages! {
    configuration control deadlines deployment forms handover http lifecycle log metrics migration performance proxies reliability scaling security signals streaming supervision systemd tiny_http tls versions
}
