//! What a program adds for operators: metrics of its own, and whether it is ready.

use std::any::Any;
use std::error::Error as StdError;
use std::sync::Arc;

use crate::base::contain_panic::{contain, panic_text};
use crate::base::log::error;

type MetricsHook = Arc<dyn Fn(&mut String) + Send + Sync>;
type ReadinessHook = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The hooks, in the order in which they were added.
#[derive(Clone, Default)]
pub(in crate::server) struct ProgramHooks {
    metrics: Vec<MetricsHook>,
    readiness: Vec<ReadinessHook>,
}

impl ProgramHooks {
    pub(in crate::server) fn add_metrics(&mut self, hook: impl Fn(&mut String) + Send + Sync + 'static) {
        self.metrics.push(Arc::new(hook));
    }

    pub(in crate::server) fn add_readiness<E: Into<Box<dyn StdError + Send + Sync>>>(
        &mut self,
        hook: impl Fn() -> Result<(), E> + Send + Sync + 'static,
    ) {
        self.readiness.push(Arc::new(move || hook().map_err(|e| e.into().to_string())));
    }

    pub(in crate::server) fn add(&mut self, mut more: ProgramHooks) {
        self.metrics.append(&mut more.metrics);
        self.readiness.append(&mut more.readiness);
    }

    /// Adds what the hooks write, each from the start of a line. One that panics adds nothing.
    pub(in crate::server) fn write_metrics(&self, text: &mut String) {
        for hook in &self.metrics {
            let before = text.len();
            let seen = |panic: &(dyn Any + Send)| error!("a metrics hook panicked: {}", panic_text(panic));
            if !contain(|| hook(text), seen) {
                text.truncate(before);
            }
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
        }
    }

    /// Why the program is not ready, by the first hook that says so. One that panics says so, too.
    pub(in crate::server) fn check_ready(&self) -> Result<(), String> {
        self.readiness.iter().try_for_each(|hook| {
            let mut ready = Err("a readiness hook panicked".to_owned());
            let seen = |panic: &(dyn Any + Send)| error!("a readiness hook panicked: {}", panic_text(panic));
            contain(|| ready = hook(), seen);
            ready
        })
    }
}
