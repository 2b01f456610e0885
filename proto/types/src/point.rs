//! How people name a recovery point: `CLUSTER@SEQUENCE`, for example `prod-eu@12`.

use std::fmt;
use std::str::FromStr;

use crate::Sequence;

/// The name of one recovery point in a fleet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointName {
    /// The cluster's name.
    pub cluster: String,
    /// The point's number within the cluster.
    pub sequence: Sequence,
}

/// Why a text names no recovery point, or no cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointNameError {
    /// No `@` or no number behind it.
    #[error("{0:?} is not a recovery point: expected CLUSTER@NUMBER, as `backup list` prints it")]
    NotAPoint(String),
    /// Cluster names are restricted so that they fit into DNS names of certificates.
    #[error(
        "{0:?} is not a cluster name: use 1 to 63 lower-case letters, digits and hyphens, \
         beginning and ending with a letter or digit"
    )]
    NotAClusterName(String),
}

/// Checks that `name` can name a cluster (an RFC 1123 label).
///
/// # Errors
/// When it is empty, too long or has other characters.
pub fn check_cluster_name(name: &str) -> Result<(), PointNameError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = !name.is_empty()
        && name.len() <= 63
        && name.chars().all(|c| inner(c) || c == '-')
        && name.starts_with(inner)
        && name.ends_with(inner);
    if good { Ok(()) } else { Err(PointNameError::NotAClusterName(name.to_owned())) }
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.cluster, self.sequence)
    }
}

impl FromStr for PointName {
    type Err = PointNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || PointNameError::NotAPoint(text.to_owned());
        let (cluster, sequence) = text.split_once('@').ok_or_else(wrong)?;
        check_cluster_name(cluster)?;
        Ok(Self { cluster: cluster.to_owned(), sequence: sequence.parse().map_err(|_| wrong())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_names_round_trip_and_refuse() {
        let name: PointName = "prod-eu@12".parse().unwrap();
        assert_eq!(name.to_string(), "prod-eu@12");
        for bad in ["", "prod", "prod@", "prod@x", "@1", "Prod@1", "-a@1", "a.b@1"] {
            assert!(bad.parse::<PointName>().is_err(), "{bad}");
        }
    }
}
