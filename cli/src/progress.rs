//! Shows an agent's progress events as a bar, for people at a terminal.

use std::sync::Arc;

use agent::progress::{Progress, ProgressEvent};
use indicatif::ProgressBar;

use crate::output::Screen;

/// A bar, and the listener that moves it.
#[must_use]
pub fn shown(screen: &Screen) -> (ProgressBar, Arc<dyn Progress>) {
    let bar = screen.byte_bar();
    let moved = bar.clone();
    let listener = move |event: ProgressEvent| {
        moved.set_message(event.phase.as_str());
        moved.set_length(event.bytes_total);
        moved.set_position(event.bytes_done);
    };
    (bar, Arc::new(listener))
}
