//! What a point with new content needs: the parent's bundles less the dropped ones, with the added
//! ones. Among them exactly the manifest, its base, one key bundle and its wraps, and the key
//! bundle opens all of it (B4).

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdSet;
use proto_types::{BundleId, BundleKind, DekId};

use super::Prepared;
use crate::command::ChangedContent;
use crate::leases::within;
use crate::limits::{CONFIG_BUNDLES_MAX, DROPPED_MAX};
use crate::refusal::{Limit, Refusal, Role};
use crate::rows::{BundleFacts, BundleRow, PointRow};
use crate::state::State;

pub(super) fn resolve(
    state: &State,
    parent: Option<&PointRow>,
    content: &ChangedContent,
    rows: BTreeMap<BundleId, BundleRow>,
) -> Result<Prepared, Refusal> {
    let (needs, dropped) = combine(state, parent, content, &rows)?;
    let view = View { state, rows: &rows, needs: &needs };
    let base = view.manifest(content.manifest)?;
    view.key_bundle(content.key_bundle)?;
    view.wraps(content.wraps, content.key_bundle)?;
    let used = [Some(content.manifest), base, Some(content.key_bundle), Some(content.wraps)];
    view.nothing_else(&used)?;
    view.keys_complete(content.key_bundle)?;
    Ok(Prepared {
        manifest: content.manifest,
        base,
        key_bundle: content.key_bundle,
        wraps: content.wraps,
        dropped,
        needs,
        rows,
        statement: None,
    })
}

fn combine(
    state: &State,
    parent: Option<&PointRow>,
    content: &ChangedContent,
    rows: &BTreeMap<BundleId, BundleRow>,
) -> Result<(OrdSet<BundleId>, Vec<BundleId>), Refusal> {
    within(Limit::Dropped, content.dropped.prefixes().len(), DROPPED_MAX)?;
    let mut needs = parent.map_or_else(OrdSet::new, |parent| parent.needs.clone());
    let mut dropped = Vec::new();
    for prefix in content.dropped.prefixes() {
        let Some(bundle) = prefix.resolve(&needs) else {
            return Err(Refusal::DroppedUnknown { prefix: *prefix });
        };
        needs.remove(&bundle);
        dropped.push(bundle);
    }
    for bundle in rows.keys() {
        // A signed header is good for one sequence, so a kept bundle cannot come again.
        if state.bundle(bundle).is_some() {
            return Err(Refusal::BundleRepeated { bundle: *bundle });
        }
        needs.insert(*bundle);
    }
    dropped.sort_unstable();
    Ok((needs, dropped))
}

/// The needed bundles, wherever they are known from.
struct View<'a> {
    state: &'a State,
    rows: &'a BTreeMap<BundleId, BundleRow>,
    needs: &'a OrdSet<BundleId>,
}

impl View<'_> {
    fn facts(&self, bundle: &BundleId) -> Option<&BundleFacts> {
        let row = self.rows.get(bundle).or_else(|| self.state.bundle(bundle));
        row.map(|row| row.facts.as_ref())
    }

    /// What is known of a needed bundle, or that the point lacks it.
    fn needed(&self, bundle: BundleId, role: Role) -> Result<&BundleFacts, Refusal> {
        let missing = Refusal::RoleMissing { role, bundle };
        if !self.needs.contains(&bundle) {
            return Err(missing);
        }
        self.facts(&bundle).ok_or(missing)
    }

    /// Checks the manifest and gives its base.
    fn manifest(&self, manifest: BundleId) -> Result<Option<BundleId>, Refusal> {
        let facts = self.needed(manifest, Role::Manifest)?;
        if facts.kind != BundleKind::Manifest || !self.rows.contains_key(&manifest) {
            return Err(Refusal::RoleWrong { role: Role::Manifest, bundle: manifest });
        }
        let Some(base) = facts.base else { return Ok(None) };
        let full = self.needed(base, Role::Base)?;
        // Bundles of the parent are of this cluster; one from this very commit is no base.
        let fits = full.kind == BundleKind::Manifest
            && full.base.is_none()
            && !self.rows.contains_key(&base);
        if fits {
            Ok(Some(base))
        } else {
            Err(Refusal::RoleWrong { role: Role::Base, bundle: base })
        }
    }

    fn key_bundle(&self, bundle: BundleId) -> Result<(), Refusal> {
        let facts = self.needed(bundle, Role::KeyBundle)?;
        if facts.kind == BundleKind::Key {
            Ok(())
        } else {
            Err(Refusal::RoleWrong { role: Role::KeyBundle, bundle })
        }
    }

    fn wraps(&self, bundle: BundleId, key_bundle: BundleId) -> Result<(), Refusal> {
        let facts = self.needed(bundle, Role::Wraps)?;
        if facts.kind == BundleKind::Wraps && facts.predecessor == Some(key_bundle) {
            Ok(())
        } else {
            Err(Refusal::RoleWrong { role: Role::Wraps, bundle })
        }
    }

    /// Config bundles are bounded; of every other kind there is only what is `used`.
    fn nothing_else(&self, used: &[Option<BundleId>]) -> Result<(), Refusal> {
        let mut configs = 0;
        for bundle in self.needs {
            if self.facts(bundle).is_some_and(|facts| facts.kind == BundleKind::Config) {
                configs += 1;
            } else if !used.contains(&Some(*bundle)) {
                return Err(Refusal::Surplus { bundle: *bundle });
            }
        }
        within(Limit::ConfigBundles, configs, CONFIG_BUNDLES_MAX)
    }

    /// Invariant B4: the key bundle holds every key that the point's blobs are sealed under.
    fn keys_complete(&self, key_bundle: BundleId) -> Result<(), Refusal> {
        let held = self.facts(&key_bundle).map_or(&[][..], |facts| &facts.dek_ids);
        let sealed_under: BTreeSet<DekId> = self
            .needs
            .iter()
            .filter_map(|bundle| self.facts(bundle))
            .filter(|facts| matches!(facts.kind, BundleKind::Config | BundleKind::Manifest))
            .flat_map(|facts| facts.dek_ids.iter().copied())
            .collect();
        let missing: Vec<&DekId> =
            sealed_under.iter().filter(|dek| held.binary_search(dek).is_err()).collect();
        match missing.first() {
            None => Ok(()),
            Some(first) => Err(Refusal::KeysMissing {
                key_bundle,
                missing: missing.len() as u64,
                first: **first,
            }),
        }
    }
}
