//! Under systemd: a service manager that a test plays, `systemd-socket-activate`, and systemd itself as PID 1.

mod activation;
mod notify;
mod real;
