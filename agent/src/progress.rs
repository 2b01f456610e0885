//! What a running backup, restore, export or check tells whoever waits for it. Numbers only: no
//! names or paths, so that any listener may log it.

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking at what is there.
    Scanning,
    /// Reading, compressing and sealing.
    Sealing,
    /// Sending to the fleet.
    Uploading,
    /// Waiting for the fleet's acknowledgement.
    Committing,
    /// Fetching and opening.
    Reading,
    /// Making the safety file.
    Safety,
    /// Writing to the target.
    Restoring,
    /// Comparing the target with the manifest.
    Comparing,
    /// Checking bundles.
    Verifying,
    /// Writing an export file.
    Exporting,
    /// Over.
    Done,
}

impl Phase {
    /// The word in the protocol, in JSON and on progress bars.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scanning => "scanning",
            Self::Sealing => "sealing",
            Self::Uploading => "uploading",
            Self::Committing => "committing",
            Self::Reading => "reading",
            Self::Safety => "safety",
            Self::Restoring => "restoring",
            Self::Comparing => "comparing",
            Self::Verifying => "verifying",
            Self::Exporting => "exporting",
            Self::Done => "done",
        }
    }
}

/// How far it is. Totals are zero as long as they are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressEvent {
    /// What is being done.
    pub phase: Phase,
    /// Items seen or done.
    pub items: u64,
    /// Of them, those that differ from the point before, or that are to be written.
    pub items_changed: u64,
    /// Bytes done in this phase.
    pub bytes_done: u64,
    /// Bytes to do in this phase.
    pub bytes_total: u64,
}

impl ProgressEvent {
    /// The beginning of a phase, with nothing known yet.
    #[must_use]
    pub const fn begin(phase: Phase) -> Self {
        Self { phase, items: 0, items_changed: 0, bytes_done: 0, bytes_total: 0 }
    }
}

/// Listens to progress. Called often and from any thread; must not block.
pub trait Progress: Send + Sync + 'static {
    /// Something moved on.
    fn on(&self, event: ProgressEvent);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn on(&self, _event: ProgressEvent) {}
}

impl<F: Fn(ProgressEvent) + Send + Sync + 'static> Progress for F {
    fn on(&self, event: ProgressEvent) {
        self(event);
    }
}
