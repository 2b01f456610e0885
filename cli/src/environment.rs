//! The environment's variables that begin with `STRONGROOM_`: those of the command line, and a
//! coordinator's config. A server refuses the ones that nobody knows: a mistyped setting must not
//! be as good as none.

use std::collections::BTreeSet;

use clap::CommandFactory;
use coordinator::config::environment::{PREFIX, is_service_link};
use proto_types::Code;

use crate::args::Cli;
use crate::error::{CliError, Result};

const OURS: &str = "STRONGROOM_";

/// The variables that set a coordinator's config.
///
/// # Errors
/// `INVALID_CONFIG` when one that begins with `STRONGROOM_` is not known; its value is not told.
pub fn settings() -> Result<Vec<(String, String)>> {
    let text = |value: std::ffi::OsString| value.into_string().ok();
    let all = std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
    chosen(all)
}

fn chosen(variables: impl IntoIterator<Item = (String, String)>) -> Result<Vec<(String, String)>> {
    let known = known();
    let mut settings = Vec::new();
    for (name, value) in variables {
        if !name.starts_with(OURS) || known.contains(&name) || is_service_link(&name, &value) {
            continue;
        }
        if !name.starts_with(PREFIX) {
            return Err(CliError::new(
                Code::InvalidConfig,
                format!("the environment sets {name}, which nothing knows"),
            )
            .with_remedy(format!(
                "correct its name ({PREFIX}... sets keys of coordinator.toml), or unset it"
            )));
        }
        settings.push((name, value));
    }
    Ok(settings)
}

/// Variables that stand for arguments, of any verb.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    let mut commands = vec![Cli::command()];
    while let Some(command) = commands.pop() {
        let names = command.get_arguments().filter_map(|argument| argument.get_env());
        known.extend(names.map(|name| name.to_string_lossy().into_owned()));
        commands.extend(command.get_subcommands().cloned());
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(names: &[&str]) -> Result<Vec<(String, String)>> {
        chosen(names.iter().map(|name| ((*name).to_owned(), "1".to_owned())))
    }

    #[test]
    fn config_variables_that_nobody_knows_are_refused() {
        let found = all(&[
            "PATH",
            "STRONGROOM_OUTPUT",
            "STRONGROOM_JOIN_TOKEN_FILE",
            "STRONGROOM_SERVICE_HOST",
            "STRONGROOM_COORDINATOR_RAFT__HEARTBEAT_MS",
        ]);
        let names: Vec<_> = found.unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["STRONGROOM_COORDINATOR_RAFT__HEARTBEAT_MS"]);
        let refused = all(&["STRONGROOM_RAFT__HEARTBEAT_MS"]).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidConfig);
        assert!(refused.message().contains("STRONGROOM_RAFT__HEARTBEAT_MS"));
    }
}
