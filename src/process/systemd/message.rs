//! The text of each notification, as sd_notify(3) describes it. Pure: the tests at the end are the table.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

/// The longest name of a stored descriptor.
const NAME_BYTES: usize = 255;

/// A notification of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notification<'a> {
    /// This process serves: generation 1, or a successor whose predecessor has died.
    Ready { status: &'a str },
    /// It starts a successor, at this time of CLOCK_MONOTONIC.
    Reloading { monotonic_usec: u64, status: &'a str },
    /// The handover has failed, and it serves as before.
    ServesStill { status: &'a str },
    /// The successor serves, as the main process `main` (its pid and the number of its pidfd), unless a supervisor is that
    /// for good. In this order: the new main process is the one that is ready.
    HandedOver { main: Option<(i32, Option<u64>)>, status: &'a str },
    /// The main process is this one, although no predecessor has reported it.
    TookOver { pid: i32, status: &'a str },
    /// Nothing but the text that `systemctl status` shows.
    Status { status: &'a str },
    /// It stops.
    Stopping { status: &'a str },
    /// The stop takes so much longer, from now on.
    Extend(Duration),
    /// The watchdog is fed.
    Alive,
    /// The descriptor that comes with it is closed when all earlier notifications have been handled.
    Barrier,
    /// The listener that comes with it is to be kept.
    Store { listener: &'a str },
    /// The listener is not to be kept any more.
    Remove { listener: &'a str },
}

impl Notification<'_> {
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            let separator = if text.is_empty() { "" } else { "\n" };
            // Writing to a String can't fail.
            let _ = write!(text, "{separator}{key}={}", one_line(value));
        };
        match self {
            Notification::Ready { status } | Notification::ServesStill { status } => {
                line("READY", "1");
                line("STATUS", status);
            }
            Notification::Reloading { monotonic_usec, status } => {
                line("RELOADING", "1");
                line("MONOTONIC_USEC", &monotonic_usec.to_string());
                line("STATUS", status);
            }
            Notification::HandedOver { main, status } => {
                if let Some((pid, pidfd_id)) = main {
                    line("MAINPID", &pid.to_string());
                    pidfd_id.iter().for_each(|id| line("MAINPIDFDID", &id.to_string()));
                }
                line("READY", "1");
                line("WATCHDOG", "1");
                line("STATUS", status);
            }
            Notification::TookOver { pid, status } => {
                line("MAINPID", &pid.to_string());
                line("READY", "1");
                line("STATUS", status);
            }
            Notification::Status { status } => line("STATUS", status),
            Notification::Stopping { status } => {
                line("STOPPING", "1");
                line("STATUS", status);
            }
            Notification::Extend(time) => line("EXTEND_TIMEOUT_USEC", &time.as_micros().to_string()),
            Notification::Alive => line("WATCHDOG", "1"),
            Notification::Barrier => line("BARRIER", "1"),
            Notification::Store { listener } => {
                line("FDSTORE", "1");
                line("FDNAME", &stored_name(listener).unwrap_or_default());
            }
            Notification::Remove { listener } => {
                line("FDSTOREREMOVE", "1");
                line("FDNAME", &stored_name(listener).unwrap_or_default());
            }
        }
        text
    }
}

/// A line break would begin another assignment.
fn one_line(value: &str) -> Cow<'_, str> {
    match value.contains(char::is_control) {
        true => value.replace(char::is_control, " ").into(),
        false => value.into(),
    }
}

/// Marks the descriptors that this crate has stored among those that systemd passes.
const STORED: &str = "heirloom-";

/// A listener's name in the store. systemd takes ASCII without a colon. None: it is too long.
pub(crate) fn stored_name(listener: &str) -> Option<String> {
    let escaped = crate::process::handover::escape(listener.as_bytes()).replace(':', "%3A");
    Some(format!("{STORED}{escaped}")).filter(|name| name.len() <= NAME_BYTES)
}

/// The listener that was stored by this name. None: something else.
pub(crate) fn stored_listener(name: &str) -> Option<String> {
    let escaped = name.strip_prefix(STORED)?;
    String::from_utf8(crate::process::handover::unescape(escaped)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notification_has_its_text() {
        use Notification::{
            Alive, Barrier, Extend, HandedOver, Ready, Reloading, Remove, ServesStill, Status, Stopping,
            Store, TookOver,
        };
        let status = "generation 1";
        let cases = [
            (Ready { status }, "READY=1\nSTATUS=generation 1"),
            (
                Reloading { monotonic_usec: 12_345, status },
                "RELOADING=1\nMONOTONIC_USEC=12345\nSTATUS=generation 1",
            ),
            (ServesStill { status: "child 7\nfailed" }, "READY=1\nSTATUS=child 7 failed"),
            (
                HandedOver { main: Some((7, Some(99))), status },
                "MAINPID=7\nMAINPIDFDID=99\nREADY=1\nWATCHDOG=1\nSTATUS=generation 1",
            ),
            (
                HandedOver { main: Some((7, None)), status },
                "MAINPID=7\nREADY=1\nWATCHDOG=1\nSTATUS=generation 1",
            ),
            (HandedOver { main: None, status }, "READY=1\nWATCHDOG=1\nSTATUS=generation 1"),
            (Status { status }, "STATUS=generation 1"),
            (TookOver { pid: 7, status }, "MAINPID=7\nREADY=1\nSTATUS=generation 1"),
            (Stopping { status }, "STOPPING=1\nSTATUS=generation 1"),
            (Extend(Duration::from_millis(1500)), "EXTEND_TIMEOUT_USEC=1500000"),
            (Alive, "WATCHDOG=1"),
            (Barrier, "BARRIER=1"),
            (Store { listener: "127.0.0.1:80" }, "FDSTORE=1\nFDNAME=heirloom-127.0.0.1%3A80"),
            (Remove { listener: "unix:/run/a b" }, "FDSTOREREMOVE=1\nFDNAME=heirloom-unix%3A/run/a%20b"),
        ];
        for (notification, text) in cases {
            assert_eq!(notification.encode(), text, "{notification:?}");
        }
    }

    #[test]
    fn a_stored_name_leads_back_to_its_listener() {
        for listener in ["127.0.0.1:80", "[::]:80", "unix:/run/é\n", "systemd:web", "%3A"] {
            let name = stored_name(listener).unwrap();
            assert!(name.is_ascii() && !name.contains(':') && !name.contains(char::is_control), "{name}");
            assert_eq!(stored_listener(&name).as_deref(), Some(listener));
        }
        assert_eq!((stored_listener("app.socket"), stored_name(&"x".repeat(255))), (None, None));
    }
}
