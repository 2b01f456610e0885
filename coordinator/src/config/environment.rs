//! A config by environment, for containers: every key of the file as a variable, over what the file
//! says or without one.
//!
//! `STRONGROOM_COORDINATOR_` and the key in capitals; `__` stands between a table and its key:
//! `STRONGROOM_COORDINATOR_RAFT__HEARTBEAT_MS=100` is `heartbeat_ms = 100` in `[raft]`. A whole
//! number, `true`, `false`, a list or a table is written as in TOML
//! (`STRONGROOM_COORDINATOR_MEMBERS='[{id = 1, name = "one", address = "one:7401"}]'`), anything
//! else is text as it stands; text that looks like a number stands in quotes. An empty variable is
//! none. Secrets stay in files, which the keys name.

use toml::{Table, Value};

/// What the names of a coordinator's variables begin with.
pub const PREFIX: &str = "STRONGROOM_COORDINATOR_";

/// One key from the environment.
#[derive(Debug, PartialEq)]
pub(super) struct Override {
    name: String,
    path: Vec<String>,
    value: Value,
}

/// Those of a coordinator among all variables.
pub(super) fn overrides(variables: impl IntoIterator<Item = (String, String)>) -> Vec<Override> {
    let mut found: Vec<Override> = variables
        .into_iter()
        .filter(|(name, value)| !value.is_empty() && !is_service_link(name, value))
        .filter_map(|(name, value)| {
            let key = name.strip_prefix(PREFIX)?.to_lowercase();
            let path = key.split("__").map(str::to_owned).collect();
            Some(Override { path, value: value_of(&value), name })
        })
        .collect();
    // A table before what is set in it.
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether Kubernetes made this variable for a Service whose name begins with `strongroom`.
#[must_use]
pub fn is_service_link(name: &str, value: &str) -> bool {
    let of_port = |rest: &str| {
        let protocol = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        protocol.len() < rest.len()
            && ["_TCP", "_UDP", "_SCTP"].iter().any(|known| protocol.starts_with(known))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && value.contains("://")
        || name.match_indices("_PORT_").any(|(at, found)| of_port(&name[at + found.len()..]))
}

fn value_of(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
    match parsed.and_then(|mut table| table.remove("value").filter(|_| table.is_empty())) {
        // Ids in hexadecimal may look like numbers with an exponent, and names like dates.
        Some(Value::Float(_) | Value::Datetime(_)) | None => Value::String(text.to_owned()),
        Some(value) => value,
    }
}

/// Puts the overrides into a file's table.
pub(super) fn apply(table: &mut Table, overrides: Vec<Override>) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for Override { name, path, value } in overrides {
        if put(table, &path, value).is_none() {
            problems.push(format!("{name}: there is no such key; correct its name"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn put(table: &mut Table, path: &[String], value: Value) -> Option<()> {
    let (last, tables) = path.split_last()?;
    let mut table = table;
    for name in tables {
        let inner = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        table = inner.as_table_mut()?;
    }
    if last.is_empty() {
        return None;
    }
    table.insert(last.clone(), value);
    Some(())
}

/// Names of the variables, for an error that one of them may have caused.
pub(super) fn names(overrides: &[Override]) -> String {
    overrides.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_variables_become_keys_with_values_of_their_kind() {
        let variables = [
            ("STRONGROOM_COORDINATOR_NAME", "one"),
            ("STRONGROOM_COORDINATOR_NODE_ID", "7"),
            ("STRONGROOM_COORDINATOR_JOIN", "true"),
            ("STRONGROOM_COORDINATOR_RAFT__HEARTBEAT_MS", "100"),
            ("STRONGROOM_COORDINATOR_FLEET__ID", "12e45678901234567890123456789012"),
            ("STRONGROOM_COORDINATOR_FLEET__NAME", "\"7\""),
            ("STRONGROOM_COORDINATOR_LISTEN", "10.0.0.1:7401"),
            ("STRONGROOM_COORDINATOR_METRICS_LISTEN", ""),
            ("STRONGROOM_COORDINATOR_DATA_DIR", "a # b"),
            ("STRONGROOM_COORDINATOR_MEMBERS", "[{id = 1, name = \"one\", address = \"one:1\"}]"),
            ("STRONGROOM_OUTPUT", "json"),
            ("STRONGROOM_COORDINATOR_SERVICE_HOST", "10.1.0.1"),
            ("STRONGROOM_COORDINATOR_SERVICE_PORT_GRPC", "7401"),
            ("STRONGROOM_COORDINATOR_PORT", "tcp://10.1.0.1:7401"),
            ("STRONGROOM_COORDINATOR_PORT_7401_TCP_ADDR", "10.1.0.1"),
            ("PATH", "/bin"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut table: Table =
            toml::from_str("name = \"file\"\nlisten = \"x\"\n[raft]\nheartbeat_ms = 1\nx = 2")
                .unwrap();
        apply(&mut table, overrides(variables)).unwrap();
        let expected: Table = toml::from_str(
            "name = \"one\"\nnode_id = 7\njoin = true\nlisten = \"10.0.0.1:7401\"\ndata_dir = \"a # b\"\n\
             members = [{id = 1, name = \"one\", address = \"one:1\"}]\n\
             [raft]\nheartbeat_ms = 100\nx = 2\n\
             [fleet]\nid = \"12e45678901234567890123456789012\"\nname = \"7\"\n",
        )
        .unwrap();
        assert_eq!(table, expected);
        for name in ["STRONGROOM_COORDINATOR_", "STRONGROOM_COORDINATOR_NAME__X"] {
            let found = overrides([(name.to_owned(), "1".to_owned())]);
            let problems = apply(&mut table, found).unwrap_err();
            assert!(problems[0].starts_with(&format!("{name}: ")), "{problems:?}");
        }
    }
}
