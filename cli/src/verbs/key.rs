//! `strongroom key`: the fleet's recovery key. Made away from the coordinators, kept as shares, and
//! needed only when a cluster or the whole fleet is gone. None of these verbs asks a coordinator.

mod attest;
mod init;
mod recover;
mod status;
mod verify;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Result;

pub use attest::AttestArgs;
pub use init::InitArgs;
pub use recover::RecoverArgs;
pub use status::StatusArgs;
pub use verify::VerifyArgs;

/// Name of the public half.
pub const RECOVERY_PUB: &str = "recovery.pub";

/// Verbs about keys.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a fleet's recovery key, as shares for its holders, and recovery.pub
    Init(InitArgs),
    /// Say what a recovery.pub says: fingerprint, and which shares there are
    Status(StatusArgs),
    /// Check one holder's share alone
    Attest(AttestArgs),
    /// Prove that shares open a real key bundle; writes nothing
    Verify(VerifyArgs),
    /// Take the keys of clusters out of exported points, without cluster or coordinators
    Recover(RecoverArgs),
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Init(arguments) => init::run(&arguments, context),
        Verb::Status(arguments) => status::run(&arguments, context),
        Verb::Attest(arguments) => attest::run(&arguments, context),
        Verb::Verify(arguments) => verify::run(&arguments, context).await,
        Verb::Recover(arguments) => recover::run(&arguments, context).await,
    }
}
