//! The running parts of a server, as the control loop sees them.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::base::records::Records;
use crate::base::status::{InFlight, ParkedConnection, RunningHandler, Stats};
use crate::process::control::inbox::BusyPool;
use crate::process::handover::Passed;

/// The running parts of a server, which the control loop controls. None of the methods waits; the end of an operation is
/// reported through the [`Inbox`](super::inbox::Inbox).
pub(crate) trait Engine {
    /// Accept on all listeners.
    fn accept(&self);
    /// Another generation has the listeners with these names, too, and no others.
    fn share(&self, names: &[String]);
    /// Stop accepting on the listeners that are shared; they stay open.
    fn pause(&self);
    /// Close the listeners; `ListenersClosed` follows. Those that are not shared are closed as by `close_last`.
    fn close_shared(&self);
    /// Serve the clients that wait on the listeners, then close them; `ListenersClosed` follows.
    fn close_last(&self);
    /// The successor gets by this channel, before GO, the keys that both will use. They stay as they are from now on.
    fn pass_keys(&self, channel: BorrowedFd<'_>);
    /// This generation has the service to itself: its keys may change with time.
    fn rotate_keys(&self);
    /// The successor takes connections here, those of shared listeners.
    fn hand_connections(&self, channel: OwnedFd);
    /// Announce the close to every connection; `Drained` follows.
    fn drain(&self);
    /// Ask every part for a sign of life; `Checked` follows.
    fn check(&self);
    /// Ask acceptor and workers for progress; `Inbox::progressed` follows, if they make any.
    fn check_progress(&self);
    /// The open listeners.
    fn listeners(&self) -> Vec<Passed>;
    /// The files that the user's program passes on with the listeners, by name.
    fn files(&self) -> Vec<(String, Arc<OwnedFd>)>;
    /// Whether nothing is in flight. If something is, `Drained` follows at its end.
    fn is_idle(&self) -> bool;
    /// The operations in flight.
    fn in_flight(&self) -> Vec<InFlight>;
    /// One line for the log.
    fn report(&self) -> String;
    /// What is passed on of the service's past.
    fn records(&self) -> &Records;
    /// Adds the counters and gauges.
    fn add_to(&self, stats: &mut Stats);
    /// At most so many of the connections that no worker has.
    fn connections(&self, most: usize) -> Vec<ParkedConnection>;
    fn handlers(&self) -> Vec<RunningHandler>;
    /// Log which handlers keep the workers of a pool busy. The acceptor has noticed it, and has no time for their routes.
    fn log_all_busy(&self, busy: BusyPool);
}
