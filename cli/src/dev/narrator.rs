//! Tells the story: a line in plain words with the time since the start for people, a list of
//! steps for programs.

use serde::Serialize;

use crate::context::Context;
use crate::error::Result;

/// A step that was done.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Told {
    /// Seconds since the start.
    pub(super) seconds: f64,
    /// Which step.
    pub(super) step: String,
    /// What happened.
    pub(super) text: String,
}

/// Tells what happens.
pub(super) struct Narrator<'a> {
    context: &'a Context,
    started_millis: u64,
    step: String,
    told: Vec<Told>,
}

impl<'a> Narrator<'a> {
    /// Starts the clock.
    pub(super) fn new(context: &'a Context) -> Self {
        let started_millis = context.env.clock.elapsed_millis();
        Self { context, started_millis, step: "starting".to_owned(), told: Vec::new() }
    }

    /// A step begins: what fails from here on failed in it.
    pub(super) fn begin(&mut self, step: &str) {
        step.clone_into(&mut self.step);
    }

    /// The step that is being done.
    pub(super) fn step(&self) -> &str {
        &self.step
    }

    /// Says what happened.
    ///
    /// # Errors
    /// When standard output is gone.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        let millis = self.context.env.clock.elapsed_millis().saturating_sub(self.started_millis);
        // Precise far beyond any story's length.
        #[allow(clippy::cast_precision_loss)]
        let seconds = millis as f64 / 1000.0;
        self.told.push(Told { seconds, step: self.step.clone(), text: text.to_owned() });
        if self.context.screen.is_json() {
            return Ok(());
        }
        self.context.screen.line(&format!("[{seconds:>6.1} s] {text}"))
    }

    /// All that was told.
    pub(super) fn told(&self) -> &[Told] {
        &self.told
    }
}
