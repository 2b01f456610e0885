//! The log: text for people or JSON for programs, on standard error. Metrics belong to the
//! servers themselves.

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::error::{CliError, Result};

/// Starts the log. `filter` is the person's wish, `usual` what holds without one.
///
/// # Errors
/// When the filter makes no sense.
pub fn start(format: LogFormat, filter: Option<&str>, usual: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter.unwrap_or(usual)).map_err(|error| {
        CliError::usage(format!("--log-level {:?} is no filter: {error}", filter.unwrap_or(usual)))
            .with_remedy("use error, warn, info, debug or trace, or pairs as `info,openraft=warn`")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
    }
    report_panics();
    Ok(())
}

/// A panic is a bug of ours: it becomes one line of the log, not a dump on somebody's terminal.
fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or("a panic without a message");
        tracing::error!(place, "{message}");
    }));
}
