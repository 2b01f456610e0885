//! The keys of one backup: which keyring it is sealed under, and what is due about keys before and
//! after it. Orders of operators come with the session and with each acknowledgement.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bundle::Keyring;
use proto::v1;
use proto::v1::keys_client::KeysClient;
use proto_types::BundleId;

use super::BackupError;
use super::engine::Engine;
use super::previous::{Head, Previous};
use super::run::Run;

/// What operators want of this cluster's keys, as far as this agent was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) orders: v1::KeyOrders,
    /// How many recovery keys came before the fleet's.
    pub(super) generation: u32,
    /// Those that the point under way is made for: what comes with its acknowledgement is the next one's.
    planned: (u64, u64),
    /// Those that an acknowledged point fulfils, whether the fleet was told or not.
    fulfilled: (u64, u64),
}

impl Wanted {
    /// Whether the point under way has to bring another KEK.
    const fn kek(&self) -> bool {
        self.planned.0 > self.orders.kek_done && self.planned.0 > self.fulfilled.0
    }
    /// Whether it has to bring another data key.
    const fn dek(&self) -> bool {
        self.planned.1 > self.orders.dek_done && self.planned.1 > self.fulfilled.1
    }
    /// Whether there are orders that no point was made for.
    const fn is_open(&self) -> bool {
        let kek = self.orders.kek > self.orders.kek_done && self.orders.kek > self.fulfilled.0;
        let dek = self.orders.dek > self.orders.dek_done && self.orders.dek > self.fulfilled.1;
        kek || dek
    }
    const fn is_told(&self) -> bool {
        self.fulfilled.0 <= self.orders.kek_done && self.fulfilled.1 <= self.orders.dek_done
    }
}

/// The newest point where it cannot be opened: its keys are lost. The next one follows it all the
/// same, with everything new.
pub(super) struct Blind {
    pub(super) head: Head,
    pub(super) needs: BTreeSet<BundleId>,
}

impl Engine {
    pub(super) fn with_wanted<T>(&self, work: impl FnOnce(&mut Wanted) -> T) -> T {
        work(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in what an acknowledgement says.
    pub(super) fn note_wanted(&self, orders: Option<v1::KeyOrders>, generation: u32) {
        self.with_wanted(|wanted| {
            wanted.orders = orders.unwrap_or_default();
            wanted.generation = wanted.generation.max(generation);
        });
    }

    /// Whether there is something to do about keys that should not wait for the next backup.
    pub(super) fn keys_wanted(&self) -> bool {
        // Changed while the point was acknowledged: it opens with the one before.
        let is_changed = self.home.store_secret().is_as_used().is_ok_and(|same| !same);
        is_changed
            || self
                .with_wanted(|wanted| wanted.is_open() || wanted.generation > self.known_generation)
    }

    /// Before a backup: what was lost or changed by a hand is taken in, what an operator ordered is
    /// prepared, durable before anything is sealed under it.
    pub(super) fn prepare_keys(&self) -> Result<(), BackupError> {
        let random = &*self.env.random;
        if let Some(change) = self.home.look_at_kek(random)? {
            tracing::warn!(?change, "store_secret_changed");
        }
        let new_kek = self.with_wanted(|wanted| {
            wanted.planned = (wanted.orders.kek, wanted.orders.dek);
            wanted.kek()
        });
        if new_kek {
            self.home.store_secret().prepare(random)?;
        }
        Ok(())
    }

    /// After an acknowledged point: its KEK takes its place, and the fleet hears what was fulfilled.
    pub(super) async fn settle_keys(&mut self) -> Result<(), BackupError> {
        let Some(previous) = &self.previous else { return Ok(()) };
        self.home.store_secret().settle(&previous.keyring)?;
        let done = self.with_wanted(|wanted| {
            wanted.fulfilled = wanted.planned;
            (!wanted.is_told()).then_some(wanted.fulfilled)
        });
        let Some((kek, dek)) = done else { return Ok(()) };
        let request = v1::RecordKeysRequest {
            write_id: Some(self.client.next_write_id()),
            epoch: self.status.epoch,
            kek,
            dek,
        };
        let told = self
            .client
            .call("telling that keys were changed", |channel| {
                let request = request.clone();
                async move { KeysClient::new(channel).record_keys(request).await }
            })
            .await;
        match told {
            Ok(_) => {
                tracing::info!(kek, dek, "keys_changed");
                self.with_wanted(|wanted| {
                    wanted.orders.kek_done = wanted.orders.kek_done.max(kek);
                    wanted.orders.dek_done = wanted.orders.dek_done.max(dek);
                });
            }
            // The next backup tells it.
            Err(error) => tracing::warn!(%error, "the fleet could not be told of changed keys"),
        }
        Ok(())
    }
}

impl Run<'_> {
    /// The newest point, which the next one follows.
    pub(super) fn parent<'a>(&'a self, previous: Option<&'a Previous>) -> Option<&'a Head> {
        let blind = self.session.blind.as_ref();
        previous.map(|previous| &previous.head).or_else(|| blind.map(|blind| &blind.head))
    }

    /// What the newest point needs.
    pub(super) fn parent_needs<'a>(
        &'a self,
        previous: Option<&'a Previous>,
    ) -> Option<&'a BTreeSet<BundleId>> {
        let blind = self.session.blind.as_ref();
        previous.map(|previous| &previous.needs).or_else(|| blind.map(|blind| &blind.needs))
    }

    /// Invariant B4: the key that the wraps are under is the one that stands in its place, also when
    /// somebody changed it while the backup was made.
    pub(super) fn require_same_kek(&self) -> Result<(), BackupError> {
        if self.engine.home.store_secret().is_as_used()? {
            Ok(())
        } else {
            Err(BackupError::KekChanged)
        }
    }

    /// Whether there has to be a new key bundle, also when no item changed.
    pub(super) fn keys_due(&self, previous: &Previous) -> bool {
        let sealing = self.engine.home.store_secret().sealing();
        previous.keyring.generation_of(&sealing) != Some(previous.keyring.kek_generation())
            || previous.recovery != self.engine.recovery.fingerprint()
            || self.engine.with_wanted(|wanted| wanted.dek())
    }

    /// The keyring to seal under, and whether it changed, so that a new key bundle is needed.
    pub(super) fn keyring(
        &self,
        previous: Option<&mut Previous>,
    ) -> Result<(Arc<Keyring>, bool), BackupError> {
        let engine = self.engine;
        let random = &*engine.env.random;
        let sealing = engine.home.store_secret().sealing();
        let Some(previous) = previous else {
            let signing = engine.home.signing_key();
            let lineage = self.session.lineage;
            let keyring = Keyring::create(lineage, &sealing, &signing, self.started, random);
            return Ok((Arc::new(keyring), true));
        };
        let ordered = engine.with_wanted(|wanted| wanted.dek());
        let new_dek = ordered || previous.keyring.dek_due(self.started);
        if !new_dek && !self.keys_due(previous) {
            return Ok((previous.keyring.clone(), false));
        }
        let mut needed = previous.current.key_needs().deks;
        needed.extend(previous.base.manifest.key_needs().deks);
        needed.extend(previous.base.dek);
        // Nobody else holds the keyring between backups.
        let keyring = Arc::get_mut(&mut previous.keyring).ok_or(BackupError::Lost)?;
        let generation = keyring.add_kek(&sealing);
        if new_dek {
            keyring.retain_deks(&needed);
            keyring.add_dek(self.started, random)?;
            tracing::info!(ordered, "a new data key is used from now on");
        }
        tracing::info!(kek_generation = generation.get(), "this point gets a new key bundle");
        Ok((previous.keyring.clone(), true))
    }
}
