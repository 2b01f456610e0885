//! Reads TOML files of ours. Unknown keys are refused, and every problem names file, line, key and
//! what to do.

use std::path::Path;

use agent::shown;
use proto_types::Code;
use serde::de::DeserializeOwned;

use crate::error::{CliError, Result};

/// Reads a config file into `T`, which denies unknown fields.
///
/// # Errors
/// `INVALID_CONFIG`, naming the file, and the line and key where there is one.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::new(
            Code::InvalidConfig,
            format!("cannot read the config file {}: {error}", shown::path(path)),
        )
    })?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| {
            let end = span.start.min(text.len());
            text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
        });
        // toml ends some messages with a newline and a list; people get one sentence.
        let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        let place = match line {
            Some(line) => format!("{} line {line}", shown::path(path)),
            None => shown::path(path),
        };
        CliError::new(Code::InvalidConfig, format!("{place}: {message}"))
            .with_remedy(remedy(&message))
    })
}

fn remedy(message: &str) -> &'static str {
    if message.contains("unknown field") {
        "remove the key or correct its name"
    } else if message.contains("missing field") {
        "add the key"
    } else if message.contains("invalid type") {
        "give the key a value of the expected type"
    } else {
        "correct the line; the file must be TOML"
    }
}
