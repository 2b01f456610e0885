//! A coordinator's directory as `fleet init` and `coordinator join` make it: its config file and
//! what that names. Paths in the config are relative to it.
//!
//! ```text
//! coordinator.toml
//! tls/ca.pem  tls/node.pem  tls/node.key                what everybody trusts, and who it is
//! tls/authority.pem  tls/authority.key                  what it certifies joining coordinators with
//! tls/authority.sealed                                  first coordinator only: the root's key, sealed
//! data/                                                 made at its first start
//! ```

use std::path::{Path, PathBuf};

use bundle::RecoveryPublic;
use proto_types::{Code, FleetId};
use serde::Serialize;

use crate::error::{CliError, Result};
use crate::private_file;

/// Name of the config file.
pub const CONFIG: &str = "coordinator.toml";
/// Directory of the certificates, beside the config file.
pub const TLS: &str = "tls";
/// Name of the coordinator's private key in it.
pub const NODE_KEY: &str = "node.key";

/// All that is told a new coordinator.
pub struct CoordinatorFiles<'a> {
    /// Its id.
    pub node_id: u64,
    /// What people call it.
    pub name: &'a str,
    /// `data` beside the config file, if absent.
    pub data_dir: Option<&'a Path>,
    /// `host:port` for gRPC.
    pub listen: &'a str,
    /// `host:port` for `/metrics`.
    pub metrics_listen: Option<&'a str>,
    /// Whether it joins a fleet that runs.
    pub join: bool,
    /// The fleet's id.
    pub fleet: FleetId,
    /// The fleet's name.
    pub fleet_name: &'a str,
    /// The public halves of the recovery key.
    pub recovery: RecoveryPublic,
    /// Id, name and address of the coordinators it knows at first.
    pub members: Vec<(u64, String, String)>,
    /// PEM text of the root's certificate.
    pub root: &'a str,
    /// PEM text of its own certificate and all above it.
    pub certificate: &'a str,
    /// PEM text of its private key; absent when the file is there already.
    pub key: Option<&'a str>,
    /// PEM text of the coordinators' authority and the root.
    pub authority: &'a str,
    /// PEM text of its private key.
    pub authority_key: &'a str,
    /// The root's private key, sealed to the recovery key.
    pub sealed: Option<&'a [u8]>,
}

#[derive(Serialize)]
struct Config<'a> {
    node_id: u64,
    name: &'a str,
    data_dir: &'a Path,
    listen: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_listen: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    join: bool,
    tls: Tls,
    authority: Authority,
    fleet: Fleet<'a>,
    members: Vec<Member<'a>>,
}

#[derive(Serialize)]
struct Tls {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Serialize)]
struct Authority {
    certificate: PathBuf,
    key: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<PathBuf>,
}

#[derive(Serialize)]
struct Fleet<'a> {
    id: String,
    name: &'a str,
    recovery_hpke: String,
    recovery_signing: String,
}

#[derive(Serialize)]
struct Member<'a> {
    id: u64,
    name: &'a str,
    address: &'a str,
}

impl CoordinatorFiles<'_> {
    /// Writes them all into `directory`, the config file last.
    ///
    /// # Errors
    /// When one cannot be written, or the config would not be accepted at the start.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let text = self.config()?;
        // Before anything is promised to anybody: a node that would not start is none.
        coordinator::config::Config::parse(&text, directory).map_err(|problems| {
            CliError::new(Code::InvalidConfig, format!("the config: {}", problems.join("; ")))
        })?;
        let tls = directory.join(TLS);
        private_file::make_directory(&tls)?;
        let create = |name: &str, content: &[u8]| private_file::create(&tls.join(name), content);
        create("ca.pem", self.root.as_bytes())?;
        create("node.pem", self.certificate.as_bytes())?;
        if let Some(key) = self.key {
            create(NODE_KEY, key.as_bytes())?;
        }
        create("authority.pem", self.authority.as_bytes())?;
        create("authority.key", self.authority_key.as_bytes())?;
        if let Some(sealed) = self.sealed {
            create("authority.sealed", sealed)?;
        }
        private_file::create(&directory.join(CONFIG), text.as_bytes())
    }

    fn config(&self) -> Result<String> {
        let tls = |name: &str| Path::new(TLS).join(name);
        let config = Config {
            node_id: self.node_id,
            name: self.name,
            data_dir: self.data_dir.unwrap_or(Path::new("data")),
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            join: self.join,
            tls: Tls { ca: tls("ca.pem"), certificate: tls("node.pem"), key: tls(NODE_KEY) },
            authority: Authority {
                certificate: tls("authority.pem"),
                key: tls("authority.key"),
                sealed: self.sealed.map(|_| tls("authority.sealed")),
            },
            fleet: Fleet {
                id: self.fleet.to_string(),
                name: self.fleet_name,
                recovery_hpke: hex::encode(self.recovery.hpke),
                recovery_signing: hex::encode(self.recovery.signing),
            },
            members: self
                .members
                .iter()
                .map(|(id, name, address)| Member { id: *id, name, address })
                .collect(),
        };
        toml::to_string(&config).map_err(|error| {
            CliError::new(Code::Internal, format!("the config cannot be put as TOML: {error}"))
        })
    }
}

/// `host:port` that others can connect to, from what a person gave for listening and advertising.
///
/// # Errors
/// When one of them is no address, or listening on every address says nothing to others.
pub fn advertised(listen: &str, advertise: Option<&str>) -> Result<String> {
    split("--listen", listen)?;
    let address = advertise.unwrap_or(listen);
    let flag = if advertise.is_some() { "--advertise" } else { "--listen" };
    let (host, port) = split(flag, address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let everywhere = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    if everywhere || port == 0 {
        return Err(CliError::usage(format!("{flag} {address} is nothing others can connect to"))
            .with_remedy("give --advertise HOST:PORT, as the other coordinators reach this one"));
    }
    Ok(address.to_owned())
}

fn split<'a>(flag: &str, address: &'a str) -> Result<(&'a str, u16)> {
    address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| {
            CliError::usage(format!("{flag} {address:?} is no address"))
                .with_remedy("write HOST:PORT, as in 10.0.0.1:7401")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleet_init_advertises_only_what_others_can_connect_to() {
        for (listen, advertise, expected) in [
            ("10.0.0.1:7401", None, Some("10.0.0.1:7401")),
            ("0.0.0.0:7401", Some("one.example:7401"), Some("one.example:7401")),
            ("[fd00::1]:7401", None, Some("[fd00::1]:7401")),
            ("0.0.0.0:7401", None, None),
            ("[::]:7401", None, None),
            ("10.0.0.1:0", None, None),
            ("10.0.0.1", None, None),
            (":7401", Some("one.example:7401"), None),
            ("10.0.0.1:7401", Some("nowhere"), None),
        ] {
            let found = advertised(listen, advertise);
            assert_eq!(found.as_deref().ok(), expected, "{listen} {advertise:?}");
        }
    }
}
