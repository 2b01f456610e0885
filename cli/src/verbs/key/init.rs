//! `strongroom key init`: draws the recovery key and gives it away as shares. The whole key is in
//! no file, unless one is asked for.

use std::path::{Path, PathBuf};

use agent::shown;
use bundle::{RecoveryPublic, RecoveryPublicFile, RecoverySecret, RecoveryShare, ShareDigests};
use clap::Args;
use proto_types::Code;
use serde::Serialize;
use zeroize::Zeroizing;

use super::RECOVERY_PUB;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::private_file;

/// Arguments of `key init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// How many shares to make, one for each holder
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub shares: u8,
    /// How many of them rebuild the key together
    #[arg(long, value_name = "T", default_value_t = 3)]
    pub threshold: u8,
    /// Directory for recovery.pub and a file for each holder; made if it is not there. Without it
    /// the shares are printed, this once, and recovery.pub is written where you are
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Also write the whole key, which opens everything by itself, into this file: for tests and
    /// automation. Without it no file holds the whole key
    #[arg(long, value_name = "FILE")]
    pub seed_file: Option<PathBuf>,
}

/// More than the text for people with 64 shares, so that it never grows and leaves a copy behind.
const TEXT_BYTES_MAX: usize = 32 * 1024;

#[derive(Serialize)]
struct InitView<'a> {
    recovery_pub: PathBuf,
    fingerprint: String,
    set: String,
    threshold: u8,
    total: u8,
    /// The shares themselves, where no directory was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    shares: Option<Vec<&'a str>>,
    /// The holders' files, where one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_files: Option<Vec<&'a Path>>,
    /// The file with the whole key, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_key: Option<PathBuf>,
}

pub(super) fn run(arguments: &InitArgs, context: &Context) -> Result<()> {
    give_away(&RecoverySecret::generate(&*context.env.random), arguments, context)
}

/// Makes shares of a recovery key, and the files or the text that hand them out.
pub(super) fn give_away(
    secret: &RecoverySecret,
    arguments: &InitArgs,
    context: &Context,
) -> Result<()> {
    let random = &*context.env.random;
    let shares = secret
        .split(arguments.threshold, arguments.shares, random)
        .map_err(|error| CliError::usage(error.to_string()))?;
    let public = secret.public();
    let file = prove(&shares, public)?;
    let set = *shares[0].set();

    let directory = arguments.out.as_deref();
    let mut files: Vec<(PathBuf, Zeroizing<String>)> = Vec::new();
    if let Some(directory) = directory {
        private_file::make_directory(directory)?;
        files.extend(
            shares.iter().map(|share| (directory.join(file_name(share)), share.to_file_text())),
        );
    }
    let holders = files.len();
    files.extend(arguments.seed_file.iter().map(|path| (path.clone(), secret.to_text())));
    let recovery_pub =
        directory.map_or_else(|| PathBuf::from(RECOVERY_PUB), |dir| dir.join(RECOVERY_PUB));
    files.push((recovery_pub.clone(), file.to_text().into()));
    // Half a set of shares is worse than none.
    let made = private_file::create_all(&files)?;

    let texts: Vec<_> = shares.iter().map(RecoveryShare::to_text).collect();
    let is_shown = directory.is_none();
    let view = InitView {
        recovery_pub,
        fingerprint: public.fingerprint().to_string(),
        set: set.id(),
        threshold: set.threshold(),
        total: set.total(),
        shares: is_shown.then(|| texts.iter().map(|text| text.as_str()).collect()),
        share_files: (!is_shown)
            .then(|| files[..holders].iter().map(|(path, _)| path.as_path()).collect()),
        recovery_key: arguments.seed_file.clone(),
    };
    if is_shown {
        // A key whose shares nobody has seen would seal backups that nobody can open.
        context.screen.show_secret(&view, InitView::describe).map_err(|error| {
            CliError::new(
                Code::LocalIo,
                format!("the shares could not be shown, so no key was made: {}", error.message()),
            )
        })?;
        made.keep();
        return Ok(());
    }
    made.keep();
    context.screen.show(&view, |view| view.describe().to_string())
}

pub(super) fn file_name(share: &RecoveryShare) -> String {
    format!("share-{}-of-{}.txt", share.index(), share.set().total())
}

/// Reads the shares back from their texts and rebuilds the key from the first and from the last of
/// them, before anybody relies on them.
pub(super) fn prove(
    shares: &[RecoveryShare],
    public: RecoveryPublic,
) -> Result<RecoveryPublicFile> {
    let bug = |what: &str| CliError::new(Code::Internal, format!("the new shares {what}"));
    let read = shares
        .iter()
        .map(|share| RecoveryShare::from_text(&share.to_file_text()))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| bug(&format!("do not read back: {error}")))?;
    let digests = ShareDigests::of(&read).ok_or_else(|| bug("are not a whole set"))?;
    let threshold = usize::from(digests.set().threshold());
    for chosen in [&read[..threshold], &read[read.len() - threshold..]] {
        let rebuilt = RecoverySecret::from_shares(&chosen.iter().collect::<Vec<_>>())
            .map_err(|error| bug(&format!("do not rebuild the key: {error}")))?;
        if rebuilt.public() != public {
            return Err(bug("rebuild another key"));
        }
    }
    Ok(RecoveryPublicFile { public, shares: Some(digests) })
}

impl InitView<'_> {
    fn describe(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES_MAX));
        text.push_str(&format!(
            "made         {}\nfingerprint  {}\nshares       {} of set {}; any {} of them rebuild \
             the key\n",
            shown::path(&self.recovery_pub),
            self.fingerprint,
            self.total,
            self.set,
            self.threshold
        ));
        for path in self.share_files.iter().flatten() {
            text.push_str(&format!("made         {}\n", shown::path(path)));
        }
        for (share, number) in self.shares.iter().flatten().zip(1..) {
            text.push_str(&format!("\nshare {number}\n  "));
            text.push_str(share);
            text.push('\n');
        }
        text.push_str(match &self.shares {
            Some(_) => {
                "\nThe shares are shown this once. Write each down for its holder, and let each \
                 check it with\n  strongroom key attest --recovery-pub recovery.pub\n"
            }
            None => {
                "\nGive each share file to its holder and keep no copy: together they open every \
                 backup of\nthe fleet.\n"
            }
        });
        text.push_str(&format!(
            "Without {} shares a lost cluster's backups stay closed. Coordinators and agents get \
             only {RECOVERY_PUB}.\n",
            self.threshold
        ));
        if let Some(path) = &self.recovery_key {
            text.push_str(&format!(
                "{} holds the whole key, as you asked: whoever reads it opens everything.\n",
                shown::path(path)
            ));
        }
        text
    }
}
