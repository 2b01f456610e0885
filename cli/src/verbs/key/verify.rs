//! `strongroom key verify`: proves that shares open a real key bundle, of an exported point or taken
//! from a coordinator's disk. Writes nothing, not even what was seen.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bundle::{Expect, Keyring};
use clap::Args;
use proto_types::{BundleKind, Code, LEAD_BYTES, SignedHeader};
use serde::Serialize;

use super::super::opening::{PointKey, RecoveryArgs, in_file};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::recovery::Recovery;

/// A key bundle is a keyring and the sources' secrets: larger ones are none.
const KEY_BUNDLE_BYTES_MAX: u64 = 256 << 20;

/// Arguments of `key verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// What to open: an exported point, or a key bundle
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// The wraps of the key bundle, where --file is one: a small file beside it that holds its
    /// sealed key
    #[arg(long, value_name = "FILE")]
    pub wraps: Option<PathBuf>,
    #[command(flatten)]
    recovery: RecoveryArgs,
}

#[derive(Serialize)]
struct VerifyView {
    opened: bool,
    /// Of the recovery key.
    fingerprint: String,
    /// The set of shares that rebuilt it.
    set: Option<String>,
    fleet_id: String,
    cluster_id: String,
    /// The exported point, where it is one.
    point: Option<String>,
    key_bundle: String,
    /// Fingerprint of the key that signed it, to compare.
    signer: String,
    /// Keys in it.
    keks: usize,
    deks: usize,
}

pub(super) async fn run(arguments: &VerifyArgs, context: &Context) -> Result<()> {
    let recovery = arguments.recovery.require()?;
    let view = if is_bundle(&arguments.file)? {
        open_bundle(arguments, &recovery)?
    } else if let Some(wraps) = &arguments.wraps {
        return Err(CliError::usage(format!(
            "{} is no key bundle, so that --wraps {} says nothing of it",
            agent::shown::path(&arguments.file),
            agent::shown::path(wraps)
        )));
    } else {
        open_export(&arguments.file, recovery, context).await?
    };
    context.screen.show(&view, VerifyView::describe)
}

impl VerifyView {
    fn describe(&self) -> String {
        let what = match &self.point {
            Some(point) => agent::shown::plain(point),
            None => format!("a key bundle of cluster {}", self.cluster_id),
        };
        let with = match &self.set {
            Some(set) => format!("the shares of set {set} open"),
            None => "the recovery key opens".to_owned(),
        };
        format!(
            "{with} {what}\nkeys         {} KEK, {} DEK\nfingerprint  {}\nsigner       {} \
             (compare it)\n",
            self.keks, self.deks, self.fingerprint, self.signer
        )
    }
}

async fn open_export(file: &Path, recovery: Recovery, context: &Context) -> Result<VerifyView> {
    let fingerprint = recovery.secret().public().fingerprint().to_string();
    let set = recovery.set().map(bundle::ShareSet::id);
    let found = in_file(context, file).await?;
    let opened = found.look(&PointKey::from(recovery), context).await?;
    let info = opened.info();
    let view = VerifyView {
        opened: true,
        fingerprint,
        set,
        fleet_id: info.fleet.to_string(),
        cluster_id: info.cluster.to_string(),
        point: Some(format!("{}@{}", info.cluster_name, info.sequence)),
        key_bundle: info.key_bundle.to_string(),
        signer: opened.signer().fingerprint().to_string(),
        keks: opened.keyring().keks().count(),
        deks: opened.keyring().dek_ids().len(),
    };
    opened.store().end().await;
    Ok(view)
}

fn open_bundle(arguments: &VerifyArgs, recovery: &Recovery) -> Result<VerifyView> {
    let (file, key_file) = (&arguments.file, read(&arguments.file)?);
    let wraps_path = arguments.wraps.as_ref().ok_or_else(|| {
        CliError::usage(format!("{} is a bundle without its wraps", agent::shown::path(file)))
            .with_remedy("give its wraps with --wraps, or an exported point, which has both")
    })?;
    let wraps_file = read(wraps_path)?;
    let opening = |path: &Path| {
        let path = path.to_owned();
        move |error: bundle::OpenError| {
            CliError::new(error.code(), format!("{}: {error}", agent::shown::path(&path)))
        }
    };
    let signed = SignedHeader::from_tail(&key_file, key_file.len() as u64)
        .map_err(|error| opening(file)(error.into()))?;
    let header = signed.header();
    let expect = Expect::of(header.fleet, header.cluster).signed_by(header.signer);
    let names = bundle::read_wrap_names(&wraps_file, &expect).map_err(opening(wraps_path))?;
    recovery.check(names.recovery_key, &agent::shown::path(wraps_path))?;
    let wraps = bundle::open_wraps_with_recovery(&wraps_file, recovery.secret(), &expect)
        .map_err(opening(wraps_path))?;
    let expect = expect.of_kind(BundleKind::Key).with_id(names.key_bundle);
    let keys =
        bundle::open_key_bundle(&key_file, &wraps.content_key, &expect).map_err(opening(file))?;
    let keyring: &Keyring = &keys.keyring;
    Ok(VerifyView {
        opened: true,
        fingerprint: names.recovery_key.to_string(),
        set: recovery.set().map(bundle::ShareSet::id),
        fleet_id: header.fleet.to_string(),
        cluster_id: header.cluster.to_string(),
        point: None,
        key_bundle: names.key_bundle.to_string(),
        signer: header.signer.fingerprint().to_string(),
        keks: keyring.keks().count(),
        deks: keyring.dek_ids().len(),
    })
}

/// Whether a file is a bundle as coordinators keep them, and so no export.
fn is_bundle(path: &Path) -> Result<bool> {
    let mut lead = Vec::with_capacity(LEAD_BYTES);
    File::open(path)
        .and_then(|file| file.take(LEAD_BYTES as u64).read_to_end(&mut lead))
        .map_err(|error| CliError::io("read", path, &error))?;
    Ok(BundleKind::from_lead(&lead).is_ok())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(KEY_BUNDLE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| CliError::io("read", path, &error))?;
    if bytes.len() as u64 > KEY_BUNDLE_BYTES_MAX {
        return Err(CliError::new(
            Code::TooLarge,
            format!("{} is too large for a key bundle", agent::shown::path(path)),
        ));
    }
    Ok(bytes)
}
