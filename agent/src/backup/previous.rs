//! What the agent knows of the newest point: its keys, its items, where their blobs are. Opened
//! from sealed copies beside the agent, or fetched from the fleet when they are not there: the
//! agent may lose everything but its KEK and signing key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bundle::{Expect, ItemKey, Keyring, Manifest, OpenedManifest};
use proto::fleet_client::FleetClient;
use proto::v1::{self, ReadPurpose};
use proto_types::{BundleId, BundleKind, ClusterId, DekId, FleetId, KeyFingerprint, Sequence};

use super::hints::Hint;
use super::{BackupError, opening};
use crate::heads::SeenHead;
use crate::home::Home;
use crate::point_store::{FleetPointStore, PointSelector, PointStore, read_small};

/// The newest acknowledged point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) sequence: Sequence,
    pub(crate) manifest: BundleId,
    pub(crate) key_bundle: BundleId,
    pub(crate) wraps: BundleId,
}

impl Head {
    pub(crate) fn from_wire(point: &v1::Point) -> Result<Self, BackupError> {
        let id =
            |bytes: &[u8], what| BundleId::from_slice(bytes).map_err(|_| BackupError::Answer(what));
        Ok(Self {
            sequence: Sequence::new(point.sequence),
            manifest: id(&point.manifest_id, "the head's manifest id")?,
            key_bundle: id(&point.key_bundle_id, "the head's key bundle id")?,
            wraps: id(&point.wraps_id, "the head's wraps id")?,
        })
    }
}

/// A full manifest that deltas are against.
pub(crate) struct Base {
    pub(crate) id: BundleId,
    pub(crate) manifest: Arc<Manifest>,
    /// The DEK that its file is sealed under, which every point on it needs.
    pub(crate) dek: Option<DekId>,
}

/// The newest point, opened.
pub(crate) struct Previous {
    pub(crate) head: Head,
    pub(crate) keyring: Arc<Keyring>,
    /// The recovery key that its wraps are sealed to.
    pub(crate) recovery: KeyFingerprint,
    pub(crate) base: Base,
    /// All items of the point; the base's own when it is full.
    pub(crate) current: Arc<Manifest>,
    /// What `stat` said of each item of `current` when it was read, where that is known.
    pub(crate) hints: Vec<Option<Hint>>,
    /// Every bundle the point needs.
    pub(crate) needs: BTreeSet<BundleId>,
    /// Whether the fleet lacks some of them: it was restored from a snapshot without them.
    pub(crate) is_absent: bool,
}

/// Where sealed bundles of the newest point are read.
pub(crate) struct Shelf<'a> {
    pub(crate) home: &'a Home,
    pub(crate) client: &'a Arc<FleetClient>,
    pub(crate) cluster_name: &'a str,
    pub(crate) fleet: FleetId,
    pub(crate) cluster: ClusterId,
}

impl Shelf<'_> {
    /// What everything of this cluster must be.
    pub(crate) fn expect(&self) -> Expect {
        Expect::of(self.fleet, self.cluster).signed_by(self.home.signing_key().public())
    }

    /// A sealed bundle of the head: the copy beside the agent, if it is whole, or the fleet's.
    pub(crate) async fn sealed(
        &self,
        head: &Head,
        id: BundleId,
        kind: BundleKind,
    ) -> Result<Vec<u8>, BackupError> {
        let path = self.home.bundle(id);
        let env = self.client.env();
        let kept = env
            .blocking("read a kept bundle", move || {
                std::fs::read(path).ok().filter(|bytes| BundleId::of(bytes) == id)
            })
            .await?;
        if let Some(bytes) = kept {
            return Ok(bytes);
        }
        let selector = PointSelector::Sequence(head.sequence);
        let client = self.client.clone();
        let store =
            FleetPointStore::open(client, self.cluster_name, selector, ReadPurpose::Restore)
                .await?;
        let bytes = read_small(&store, id, kind).await;
        store.end().await;
        let bytes = bytes?;
        let path = self.home.bundle(id);
        let copy = bytes.clone();
        // Opening checks the bytes; a copy that could not be kept is fetched again next time.
        let kept = env.blocking("keep a bundle", move || std::fs::write(path, copy)).await?;
        if let Err(error) = kept {
            tracing::warn!(%error, "a fetched bundle could not be kept");
        }
        Ok(bytes)
    }

    /// Opens the newest point.
    pub(crate) async fn open(&self, head: Head) -> Result<Previous, BackupError> {
        let expect = self.expect();
        let wraps = self.sealed(&head, head.wraps, BundleKind::Wraps).await?;
        let wraps = self
            .home
            .store_secret()
            .open_wraps(&wraps, &expect.with_id(head.wraps))
            .map_err(opening("the wraps of the last point"))?;
        let recovery = wraps.names.recovery_key;
        let keys = self.sealed(&head, head.key_bundle, BundleKind::Key).await?;
        let keys =
            bundle::open_key_bundle(&keys, &wraps.content_key, &expect.with_id(head.key_bundle))
                .map_err(opening("the key bundle of the last point"))?;
        let keyring = Arc::new(keys.keyring);
        let newest = self.manifest(&head, head.manifest, &keyring).await?;
        let base_id = newest.manifest.form.base();
        if base_id.is_zero() {
            let manifest = Arc::new(newest.manifest);
            let base =
                Base { id: head.manifest, dek: dek_of(&newest.file), manifest: manifest.clone() };
            let needs = needs_of(&head, &base, &BTreeSet::new());
            let (current, hints) = (manifest, vec![]);
            let is_absent = false;
            return Ok(Previous {
                head,
                keyring,
                recovery,
                base,
                current,
                hints,
                needs,
                is_absent,
            });
        }
        let opened = self.manifest(&head, base_id, &keyring).await?;
        let base =
            Base { id: base_id, dek: dek_of(&opened.file), manifest: Arc::new(opened.manifest) };
        let needs = needs_of(&head, &base, &newest.manifest.config_bundles());
        // The base is kept beside the merged list: the next delta is against it.
        let current = bundle::merge(base_id, (*base.manifest).clone(), newest.manifest)?;
        let current = Arc::new(current);
        let (hints, is_absent) = (vec![], false);
        Ok(Previous { head, keyring, recovery, base, current, hints, needs, is_absent })
    }

    async fn manifest(
        &self,
        head: &Head,
        id: BundleId,
        keyring: &Keyring,
    ) -> Result<OpenedManifest, BackupError> {
        let bytes = self.sealed(head, id, BundleKind::Manifest).await?;
        bundle::open_manifest(&bytes, keyring, &self.expect().with_id(id))
            .map_err(opening("the manifest of the last point"))
    }
}

impl Previous {
    /// It as it is remembered, to be compared with what is offered later.
    pub(crate) fn seen(&self) -> SeenHead {
        SeenHead {
            sequence: self.head.sequence,
            manifest: self.head.manifest,
            manifest_sequence: self.current.sequence,
            committed_ms: None,
        }
    }

    /// The config bundles that the point needs.
    pub(crate) fn config_bundles(&self) -> BTreeSet<BundleId> {
        let head = &self.head;
        let others = [head.manifest, head.key_bundle, head.wraps, self.base.id];
        self.needs.iter().filter(|id| !others.contains(id)).copied().collect()
    }
}

/// How the remembered hints change from one point to the next; without an old one all are new.
pub(crate) fn hint_changes(new: &Previous, old: Option<&Previous>) -> Vec<(ItemKey, Option<Hint>)> {
    let old: BTreeMap<&ItemKey, Option<Hint>> = old
        .map(|old| old.current.items.iter().map(|i| &i.key).zip(old.hints.iter().copied()))
        .into_iter()
        .flatten()
        .collect();
    let mut left = old.clone();
    let mut changes = Vec::new();
    for (item, hint) in new.current.items.iter().zip(&new.hints) {
        left.remove(&item.key);
        if old.get(&item.key) != Some(hint) {
            changes.push((item.key.clone(), *hint));
        }
    }
    changes.extend(left.into_keys().map(|key| (key.clone(), None)));
    changes
}

fn dek_of(file: &bundle::Verified) -> Option<DekId> {
    file.header.header().dek_ids.first().copied()
}

/// Every bundle that a point needs: its three own files, its base, and the config bundles of
/// both lists.
pub(crate) fn needs_of(
    head: &Head,
    base: &Base,
    delta_bundles: &BTreeSet<BundleId>,
) -> BTreeSet<BundleId> {
    let mut needs = base.manifest.config_bundles();
    needs.extend(delta_bundles);
    needs.extend([head.manifest, head.key_bundle, head.wraps, base.id]);
    needs
}
