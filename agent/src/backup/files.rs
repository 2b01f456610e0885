//! The small files of a new point: manifest, and key bundle with its wraps where the keys
//! changed; and the proof that they open before anything is sent (invariant B4).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle::{
    Form, Identity, Keyring, Manifest, Proof, ProofState, RecoveryPublic, SealedBundle, Secrets,
    Totals,
};
use proto::env::Env;
use proto::v1;
use proto_types::{BundleId, BundleKind};

use super::assemble::{Assembled, Survey};
use super::findings::{self, Troubles};
use super::hints::Hint;
use super::previous::{Base, Head, Previous, Shelf, needs_of};
use super::{BackupError, opening};
use crate::home::create_private;
use crate::upload::UploadFile;

/// What each source proves: complete, or why not.
pub(super) fn proofs(surveys: &[Survey], troubles: &Troubles) -> Vec<Proof> {
    surveys
        .iter()
        .map(|survey| Proof {
            source: survey.source.clone(),
            state: match findings::unproved(troubles, &survey.source) {
                Some(reason) => ProofState::Unproved(reason),
                None => ProofState::Proved,
            },
        })
        .collect()
}

/// Proofs as the fleet is told.
pub(super) fn wire_proofs(proofs: &[Proof]) -> Vec<v1::SourceProof> {
    proofs
        .iter()
        .map(|proof| {
            let (state, reason) = match &proof.state {
                ProofState::Proved => (v1::ProofState::Proved, ""),
                ProofState::Unproved(reason) => (v1::ProofState::Unproved, reason.as_str()),
                ProofState::Failed(reason) => (v1::ProofState::Failed, reason.as_str()),
            };
            v1::SourceProof {
                source: proof.source.clone(),
                state: state.into(),
                reason: reason.to_owned(),
            }
        })
        .collect()
}

/// A new point, sealed and checked, ready to be sent.
pub(super) struct Made {
    pub(super) identity: Identity,
    pub(super) head: Head,
    pub(super) base: Base,
    pub(super) current: Arc<Manifest>,
    pub(super) hints: Vec<Option<Hint>>,
    pub(super) needs: BTreeSet<BundleId>,
    pub(super) uploads: Vec<UploadFile>,
}

/// What the files are made from.
pub(super) struct Files<'a> {
    pub(super) env: &'a Env,
    pub(super) shelf: Shelf<'a>,
    pub(super) recovery: &'a RecoveryPublic,
    pub(super) keyring: &'a Arc<Keyring>,
    pub(super) identity: Identity,
    /// The point before, which need not be open.
    pub(super) parent: Option<&'a Head>,
    pub(super) spool: &'a Path,
}

struct Keys {
    bundle: BundleId,
    wraps: BundleId,
    bundle_bytes: Vec<u8>,
    wraps_bytes: Vec<u8>,
    uploads: Vec<UploadFile>,
}

impl Files<'_> {
    /// Seals and checks everything.
    #[allow(clippy::too_many_arguments)] // each is another part of the point
    pub(super) async fn make(
        &self,
        config: Option<(SealedBundle, PathBuf)>,
        secrets: Secrets,
        assembled: Assembled,
        proofs: Vec<Proof>,
        previous: Option<&Previous>,
        full: bool,
        keys_changed: bool,
    ) -> Result<Made, BackupError> {
        let mut uploads: Vec<UploadFile> =
            config.into_iter().map(|(sealed, path)| UploadFile { path, sealed }).collect();
        let mut point = Manifest {
            sequence: self.identity.sequence,
            key_bundle: BundleId::ZERO,
            form: Form::Full,
            totals: Totals::of(&assembled.items),
            items: assembled.items,
            proofs,
        };
        let mut needs = point.key_needs();
        // The manifest's own file, and its base's.
        needs.deks.insert(self.keyring.current_dek());
        if let Some(previous) = previous.filter(|_| !full) {
            needs.deks.extend(previous.base.dek);
            needs.deks.extend(previous.base.manifest.key_needs().deks);
        }
        let same_secrets = previous.is_some_and(|p| p.current.key_needs().secrets == needs.secrets);
        let keys = match previous {
            Some(previous) if same_secrets && !keys_changed => self.old_keys(previous).await?,
            _ => self.new_keys(secrets, &needs.secrets, previous).await?,
        };
        point.key_bundle = keys.bundle;
        bundle::check_key_bundle(
            &keys.bundle_bytes,
            &keys.wraps_bytes,
            &self.shelf.home.store_secret().sealing(),
            self.recovery,
            &needs,
            &self.shelf.expect(),
        )
        .map_err(opening("the new point's key bundle"))?;
        uploads.extend(keys.uploads);

        let predecessor = self.parent.map_or(BundleId::ZERO, |parent| parent.manifest);
        let current = Arc::new(point);
        let sealed = match previous.filter(|_| !full) {
            Some(previous) => {
                let base = &previous.base;
                let delta = bundle::delta(base.id, &base.manifest, (*current).clone())?;
                self.manifest(predecessor, &delta)?
            }
            None => self.manifest(predecessor, &current)?,
        };
        let head = Head {
            sequence: self.identity.sequence,
            manifest: sealed.id(),
            key_bundle: keys.bundle,
            wraps: keys.wraps,
        };
        let (base, delta_bundles) = match previous.filter(|_| !full) {
            Some(previous) => {
                let old = &previous.base;
                let base = Base { id: old.id, manifest: old.manifest.clone(), dek: old.dek };
                let delta = bundle::diff(&old.manifest.items, &current.items);
                let listed = delta.added.into_iter().chain(delta.changed.iter().map(|c| c.new));
                let pieces = listed.flat_map(|item| &item.content);
                let bundles = pieces.filter_map(bundle::Piece::config_blob).map(|(id, _)| id);
                (base, bundles.collect())
            }
            None => {
                let dek = Some(self.keyring.current_dek());
                (Base { id: sealed.id(), manifest: current.clone(), dek }, BTreeSet::new())
            }
        };
        let needs = needs_of(&head, &base, &delta_bundles);
        uploads.push(sealed);
        Ok(Made {
            identity: self.identity,
            head,
            base,
            current,
            hints: assembled.hints,
            needs,
            uploads,
        })
    }

    /// The last point's key bundle still fits.
    async fn old_keys(&self, previous: &Previous) -> Result<Keys, BackupError> {
        let head = &previous.head;
        Ok(Keys {
            bundle: head.key_bundle,
            wraps: head.wraps,
            bundle_bytes: self.shelf.sealed(head, head.key_bundle, BundleKind::Key).await?,
            wraps_bytes: self.shelf.sealed(head, head.wraps, BundleKind::Wraps).await?,
            uploads: Vec::new(),
        })
    }

    /// A key bundle with the secrets just read and those of the last one that are still needed.
    async fn new_keys(
        &self,
        mut secrets: Secrets,
        needed: &BTreeSet<bundle::BlobId>,
        previous: Option<&Previous>,
    ) -> Result<Keys, BackupError> {
        let missing = needed.iter().any(|id| secrets.get(id).is_none());
        if let Some(previous) = previous.filter(|_| missing) {
            let old = self.old_keys(previous).await?;
            let store_secret = self.shelf.home.store_secret();
            let wraps = store_secret
                .open_wraps(&old.wraps_bytes, &self.shelf.expect())
                .map_err(opening("the wraps of the last point"))?;
            let old = bundle::open_key_bundle(
                &old.bundle_bytes,
                &wraps.content_key,
                &self.shelf.expect(),
            )
            .map_err(opening("the key bundle of the last point"))?;
            for id in needed {
                if let Some(secret) = old.secrets.get(id) {
                    secrets.insert(self.keyring, secret);
                }
            }
        }
        secrets.retain(needed);
        let random = &*self.env.random;
        let predecessor = self.parent.map_or(BundleId::ZERO, |parent| parent.key_bundle);
        let (sealed, content_key, bundle_bytes) = bundle::seal_key_bundle(
            Vec::new(),
            self.keyring,
            &secrets,
            &self.identity,
            predecessor,
            self.recovery,
            random,
        )?;
        let (sealed_wraps, wraps_bytes) = bundle::seal_wraps(
            Vec::new(),
            self.keyring,
            &content_key,
            sealed.id,
            &self.identity,
            self.recovery,
            random,
        )?;
        let (bundle, wraps) = (sealed.id, sealed_wraps.id);
        let mut uploads = Vec::new();
        for (sealed, bytes, name) in
            [(sealed, &bundle_bytes, "key"), (sealed_wraps, &wraps_bytes, "wraps")]
        {
            let path = self.spool.join(name);
            let mut file = create_private(&path)?;
            file.write_all(bytes).map_err(bundle::SealError::Write)?;
            uploads.push(UploadFile { path, sealed });
        }
        Ok(Keys { bundle, wraps, bundle_bytes, wraps_bytes, uploads })
    }

    fn manifest(
        &self,
        predecessor: BundleId,
        manifest: &Manifest,
    ) -> Result<UploadFile, BackupError> {
        let path = self.spool.join("manifest");
        let writer = BufWriter::with_capacity(1 << 20, create_private(&path)?);
        let (sealed, _): (_, BufWriter<File>) = bundle::seal_manifest(
            writer,
            self.keyring,
            &self.identity,
            predecessor,
            manifest,
            &*self.env.random,
        )?;
        Ok(UploadFile { path, sealed })
    }
}
