//! From a recovery point back into a cluster: a plan first, printed and checked; then a safety file
//! of what would be overwritten; then the objects, wave by wave, by server-side apply; then a
//! comparison, object by object. What is already as it was is left alone, so that a restore that
//! was interrupted is simply started again.

mod apply;
mod compare;
mod diff;
mod plan;
mod safety;

use std::collections::BTreeMap;
use std::path::PathBuf;

use proto::env::BlockingPanicked;
use proto_types::Code;
use serde::Serialize;

use super::api::{ApiFailure, Connection};
use super::decide::{ObjectAction, ObjectPolicy};
use crate::opened::PointError;
use crate::patterns::Patterns;
use crate::restore::RestoreError;

pub use apply::execute;
pub use diff::{ObjectDiff, diff};
pub use plan::{KubePlan, PlannedObject, plan};

/// The manager of fields that a restore sets.
pub const FIELD_MANAGER: &str = "strongroom";

/// What to restore into which cluster, and how.
#[derive(Debug, Clone)]
pub struct KubeOptions {
    /// The cluster.
    pub connection: Connection,
    /// Objects to restore, by the names that items have; empty: all.
    pub include: Patterns,
    /// Objects to leave out.
    pub exclude: Patterns,
    /// Kinds to restore, as `Secret`, `apps/Deployment` or `Deployment.apps`; empty: all.
    pub kinds: Vec<String>,
    /// Namespaces whose objects are restored, and which themselves are; empty: all, and what has
    /// none.
    pub in_namespaces: Vec<String>,
    /// Labels that objects must have; a value, or any.
    pub labels: BTreeMap<String, Option<String>>,
    /// Namespaces that become others.
    pub namespaces: BTreeMap<String, String>,
    /// What to do where the cluster holds something else.
    pub on_conflict: ObjectPolicy,
    /// The name, in the kubeconfig, of the other cluster that the point may be restored into.
    pub into_cluster: Option<String>,
    /// Where a safety file is put.
    pub safety_directory: PathBuf,
}

/// How one object ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectOutcome {
    /// It was made.
    Created,
    /// It was changed to what it was.
    Overwritten,
    /// It was deleted and made anew.
    Recreated,
    /// It was already as it was.
    Unchanged,
    /// It is different and was left alone, as was asked.
    Skipped,
    /// It was not restored.
    Failed,
    /// It was restored, and is not what the point says.
    NotEqual,
}

/// One object of a report.
#[derive(Debug, Clone, Serialize)]
pub struct ObjectReport {
    /// Its name in the target.
    pub path: String,
    /// How it ended.
    pub outcome: ObjectOutcome,
    /// Why, or what had to be different.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What a restore into a cluster did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KubeReport {
    /// Every chosen object, in the order of names.
    pub objects: Vec<ObjectReport>,
    /// Where what was overwritten is kept, sealed.
    pub safety_file: Option<PathBuf>,
    /// Objects that were compared with the point afterwards.
    pub compared: u64,
}

impl KubeReport {
    /// How many objects ended like this.
    #[must_use]
    pub fn count(&self, outcome: ObjectOutcome) -> usize {
        self.objects.iter().filter(|object| object.outcome == outcome).count()
    }

    /// What is not as it should be: `PARTIAL` or `NOT_EQUAL`, or nothing.
    #[must_use]
    pub fn problem(&self) -> Option<Code> {
        if self.count(ObjectOutcome::Failed) > 0 {
            Some(Code::Partial)
        } else if self.count(ObjectOutcome::NotEqual) > 0 {
            Some(Code::NotEqual)
        } else {
            None
        }
    }
}

/// Why a restore into a cluster did not begin, or did not end.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The point could not be read.
    #[error(transparent)]
    Point(#[from] PointError),
    /// The cluster could not be asked.
    #[error(transparent)]
    Api(#[from] ApiFailure),
    /// No object was chosen.
    #[error("no object in the point matches: `backup show` lists what it holds")]
    NothingMatches,
    /// An object of the point cannot be read.
    #[error("item {index} of the point is no object as Kubernetes has them")]
    NotAnObject {
        /// Its place in the list.
        index: usize,
    },
    /// Two objects would become one.
    #[error("two objects would become {path} by the mapping of namespaces: map them apart")]
    Collision {
        /// Which.
        path: String,
    },
    /// The target is another cluster.
    #[error(
        "the point is of the cluster whose kube-system has the UID {expected}, and {name:?} is the \
         one with {found}: nothing was changed; to restore into it all the same, give \
         --into-cluster {name}"
    )]
    OtherCluster {
        /// UID in the point.
        expected: String,
        /// UID of the target.
        found: String,
        /// The target's name in the kubeconfig.
        name: String,
    },
    /// The target is not the one that was named.
    #[error("--into-cluster says {expected:?}, and the kubeconfig leads to {found:?}")]
    OtherName {
        /// What was said.
        expected: String,
        /// The target's name in the kubeconfig.
        found: String,
    },
    /// The plan has conflicts.
    #[error(
        "the cluster holds other objects than the point in {count} places, for example {example}: \
         nothing was changed; choose --on-conflict skip, overwrite or recreate, and see --diff"
    )]
    Conflicts {
        /// How many.
        count: usize,
        /// One of them.
        example: String,
    },
    /// The safety file could not be made, so nothing was overwritten.
    #[error(transparent)]
    Safety(Box<RestoreError>),
    /// A bug.
    #[error(transparent)]
    Panicked(#[from] BlockingPanicked),
}

impl KubeError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Point(error) => error.code(),
            Self::Api(error) => error.code(),
            Self::NothingMatches => Code::NothingMatches,
            Self::NotAnObject { .. } => Code::Damaged,
            Self::Collision { .. } => Code::InvalidArgument,
            Self::OtherCluster { .. } | Self::OtherName { .. } => Code::WrongCluster,
            Self::Conflicts { .. } => Code::Conflict,
            Self::Safety(error) => error.code(),
            Self::Panicked(_) => Code::Internal,
        }
    }
}

impl From<RestoreError> for KubeError {
    fn from(error: RestoreError) -> Self {
        Self::Safety(Box::new(error))
    }
}

/// Whether an action writes.
const fn writes(action: ObjectAction) -> bool {
    matches!(action, ObjectAction::Create | ObjectAction::Overwrite)
}
