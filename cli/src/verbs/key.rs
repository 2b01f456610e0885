//! `strongroom key`: the fleet's recovery key. Made away from the coordinators, kept as shares, and
//! needed only when a cluster or the whole fleet is gone. The key itself never goes to a coordinator:
//! `rotate`, `attest` and `status` tell the fleet of it, or ask.

mod attest;
mod init;
mod recover;
mod rotate;
mod split;
mod status;
mod verify;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Result;

pub use attest::AttestArgs;
pub use init::InitArgs;
pub use recover::RecoverArgs;
pub use rotate::RotateArgs;
pub use split::SplitArgs;
pub use status::StatusArgs;
pub use verify::VerifyArgs;

/// Name of the public half.
pub const RECOVERY_PUB: &str = "recovery.pub";

/// Verbs about keys.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a fleet's recovery key, as shares for its holders, and recovery.pub
    Init(InitArgs),
    /// Say what a recovery.pub says; without one, ask the fleet: which clusters are still sealed to a
    /// former key, and which holders showed their shares
    Status(StatusArgs),
    /// Check one holder's share alone, and tell the fleet that it is there
    Attest(AttestArgs),
    /// Prove that shares open a real key bundle; writes nothing
    Verify(VerifyArgs),
    /// Take the keys of clusters out of exported points, without cluster or coordinators
    Recover(RecoverArgs),
    /// Let a new recovery key follow the fleet's, and renew what is sealed to the one before (role
    /// admin)
    Rotate(RotateArgs),
    /// Make shares of a whole recovery key that was kept in a file
    Split(SplitArgs),
}

pub(crate) async fn run(verb: Verb, context: &Context) -> Result<()> {
    match verb {
        Verb::Init(arguments) => init::run(&arguments, context),
        Verb::Status(arguments) => status::run(&arguments, context).await,
        Verb::Attest(arguments) => attest::run(&arguments, context).await,
        Verb::Verify(arguments) => verify::run(&arguments, context).await,
        Verb::Recover(arguments) => recover::run(&arguments, context).await,
        Verb::Rotate(arguments) => rotate::run(&arguments, context).await,
        Verb::Split(arguments) => split::run(&arguments, context),
    }
}
