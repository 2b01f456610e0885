//! The fleet's recovery key as a person has it: shares, in files or typed, or a file with the whole
//! seed. The one place where it is read, for every verb. What is rebuilt is compared with the
//! fingerprint that its shares name before anybody gets it, and by [`Recovery::check`] with the one
//! that a fleet or file names.

use std::path::{Path, PathBuf};

use agent::shown;
use bundle::{CombineError, RecoverySecret, RecoveryShare, ShareSet};
use clap::Args;
use proto_types::{Code, KeyFingerprint};

use crate::error::{CliError, Result};
use crate::key_files;
use crate::output::count;
use crate::share_entry;

/// Shares of the recovery key.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ShareArgs {
    /// A file with one share of the fleet's recovery key; say it once for each share
    #[arg(long, value_name = "FILE", conflicts_with = "shares")]
    pub share: Vec<PathBuf>,
    /// Ask for the shares one after the other: hidden on a terminal, else one on each line of
    /// standard input
    #[arg(long)]
    pub shares: bool,
}

impl ShareArgs {
    /// Whether any were given or are to be asked for.
    #[must_use]
    pub fn are_given(&self) -> bool {
        self.shares || !self.share.is_empty()
    }
}

/// A recovery key at hand.
pub struct Recovery {
    secret: RecoverySecret,
    origin: Origin,
}

/// Where it came from.
enum Origin {
    File(PathBuf),
    Shares(ShareSet),
}

impl Recovery {
    /// Reads the recovery key from a file with the whole seed, or rebuilds it from shares; `None`
    /// where neither was given.
    ///
    /// # Errors
    /// Which file or share is wrong, in what, and what to do.
    pub fn read(file: Option<&Path>, shares: &ShareArgs) -> Result<Option<Self>> {
        if let Some(path) = file {
            let secret = key_files::recovery_secret(path)?;
            return Ok(Some(Self { secret, origin: Origin::File(path.to_owned()) }));
        }
        if shares.shares {
            return rebuild(&share_entry::ask()?).map(Some);
        }
        if shares.share.is_empty() {
            return Ok(None);
        }
        rebuild(&shares.share.iter().map(|path| Given::read(path)).collect::<Result<Vec<_>>>()?)
            .map(Some)
    }

    /// Refuses a recovery key other than the one that `whose` is sealed to.
    ///
    /// # Errors
    /// `WRONG_KEY`.
    pub fn check(&self, expected: KeyFingerprint, whose: &str) -> Result<()> {
        let found = self.secret.public().fingerprint();
        if found == expected {
            return Ok(());
        }
        let error = match &self.origin {
            Origin::File(path) => {
                format!("{} is not the recovery key of {whose}", shown::path(path))
            }
            Origin::Shares(set) => {
                format!("the shares of set {} rebuild another key than that of {whose}", set.id())
            }
        };
        Err(CliError::new(Code::WrongKey, format!("{error}: it is {found}, needed is {expected}"))
            .with_remedy(self.other_key_remedy()))
    }

    /// The key.
    #[must_use]
    pub const fn secret(&self) -> &RecoverySecret {
        &self.secret
    }

    /// Gives the key up, with what to do should it turn out to be another one than is needed.
    #[must_use]
    pub fn into_parts(self) -> (RecoverySecret, &'static str) {
        let remedy = self.other_key_remedy();
        (self.secret, remedy)
    }

    /// The set it was rebuilt from.
    #[must_use]
    pub const fn set(&self) -> Option<&ShareSet> {
        match &self.origin {
            Origin::File(_) => None,
            Origin::Shares(set) => Some(set),
        }
    }

    const fn other_key_remedy(&self) -> &'static str {
        match &self.origin {
            Origin::File(_) => "give the recovery key that the fleet was created with",
            Origin::Shares(_) => {
                "give shares of the recovery key that is needed: each share names the beginning \
                 of its key's fingerprint, and so does its recovery.pub"
            }
        }
    }
}

/// One share and where it was given, as a person knows it.
pub(crate) struct Given {
    pub(crate) share: RecoveryShare,
    pub(crate) place: String,
}

impl Given {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        refuse_typed(path)?;
        Ok(Self { share: key_files::share(path)?, place: shown::path(path) })
    }
}

/// A share among the arguments would stand in the list of processes; it is not repeated.
pub(crate) fn refuse_typed(path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    let begins = text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("srshare1"));
    if !begins || path.exists() {
        return Ok(());
    }
    Err(CliError::usage(
        "a share may not stand on the command line: everybody on this machine can read it there",
    )
    .with_remedy("put it into a file of your own, or let it be asked for"))
}

fn rebuild(given: &[Given]) -> Result<Recovery> {
    let places: Vec<&str> = given.iter().map(|given| given.place.as_str()).collect();
    let shares: Vec<&RecoveryShare> = given.iter().map(|given| &given.share).collect();
    let secret = RecoverySecret::from_shares(&shares).map_err(|error| explain(&error, &places))?;
    match shares.first() {
        Some(first) => Ok(Recovery { secret, origin: Origin::Shares(*first.set()) }),
        None => Err(explain(&CombineError::None, &places)),
    }
}

/// Which share is wrong, where it was given, and what to do.
pub(crate) fn explain(error: &CombineError, places: &[&str]) -> CliError {
    let place = |at: usize| places.get(at).copied().unwrap_or("the last one");
    let (sentence, remedy) = match error {
        CombineError::None => (error.to_string(), "give them with --share or --shares".to_owned()),
        CombineError::Mixed { at, first, .. } => (
            format!("{}: {error}", place(*at)),
            format!(
                "give {} of one set; `strongroom key status` says which set a recovery.pub is of",
                count(first.threshold(), "share")
            ),
        ),
        CombineError::Twice { at, before, set, .. } => (
            format!("{}: {error}, first in {}", place(*at), place(*before)),
            format!("give {} different shares", set.threshold()),
        ),
        CombineError::Contradiction { at, before, .. } => {
            (format!("{} and {}: {error}", place(*before), place(*at)), FIND_WRONG_SHARE.to_owned())
        }
        CombineError::TooFew { set, found } => (
            error.to_string(),
            format!(
                "give {} more of this set",
                count(u64::from(set.threshold()) - *found as u64, "share")
            ),
        ),
        CombineError::OddOne { at, .. } => {
            (format!("{}: {error}", place(*at)), "leave it out".to_owned())
        }
        CombineError::OtherKey { .. } => (error.to_string(), FIND_WRONG_SHARE.to_owned()),
    };
    CliError::new(error.code(), sentence).with_remedy(remedy)
}

const FIND_WRONG_SHARE: &str = "find it out with `strongroom key attest SHARE --recovery-pub FILE` \
                                for each share, and give another one in its place";
