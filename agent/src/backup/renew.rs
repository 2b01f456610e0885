//! After the fleet's recovery key was followed by another: every older key bundle of this cluster gets
//! wraps for the new one. No data moves, and the key bundle stays the same.

use bundle::{Expect, Identity, Kek, OpenError};
use bytes::Bytes;
use proto::v1::keys_client::KeysClient;
use proto::v1::{self, ReadPurpose};
use proto_types::{BundleKind, Sequence};

use super::engine::Engine;
use super::{BackupError, opening};
use crate::point_store::{FleetPointStore, PointSelector, PointStore, read_small};

impl Engine {
    /// Renews what is owed; what fails is tried again after the next backup.
    pub(super) async fn renew_wraps(&mut self) {
        let owed = match self.owed().await {
            Ok(owed) => owed,
            Err(error) => {
                tracing::warn!(%error, "the fleet did not say which wraps are owed");
                return;
            }
        };
        for key_bundle in &owed {
            match self.renew_one(key_bundle).await {
                Ok(()) => tracing::info!(sequence = key_bundle.sequence, "wraps_renewed"),
                Err(error) => tracing::warn!(
                    code = %error.code(),
                    %error,
                    sequence = key_bundle.sequence,
                    "wraps could not be renewed for the new recovery key"
                ),
            }
        }
        if !owed.is_empty() {
            // The newest point's wraps may be others now.
            self.forget_previous();
        }
        self.owes_wraps = false;
    }

    async fn owed(&self) -> Result<Vec<v1::OwedKeyBundle>, BackupError> {
        let request = v1::GetKeyStatusRequest { stale: false };
        let response = self
            .client
            .call("asking which wraps are owed", |channel| async move {
                KeysClient::new(channel).get_key_status(request).await
            })
            .await?;
        Ok(response.owed.into_iter().flat_map(|owed| owed.key_bundles).collect())
    }

    async fn renew_one(&self, owed: &v1::OwedKeyBundle) -> Result<(), BackupError> {
        let session = self.session.as_ref().ok_or(BackupError::Lost)?;
        let selector = PointSelector::Sequence(Sequence::new(owed.sequence));
        let (client, name) = (self.client.clone(), &self.config.cluster);
        let store = FleetPointStore::open(client, name, selector, ReadPurpose::Restore).await?;
        let info = store.point().clone();
        let wraps = read_small(&store, info.wraps, BundleKind::Wraps).await;
        let keys = read_small(&store, info.key_bundle, BundleKind::Key).await;
        // Given up before the new file comes: it may not replace what somebody reads.
        store.end().await;
        let (wraps, keys) = (wraps?, keys?);
        let expect = Expect::of(session.fleet, session.cluster);
        let opened = self.open_older(&wraps, &expect.with_id(info.wraps))?;
        let keys =
            bundle::open_key_bundle(&keys, &opened.content_key, &expect.with_id(info.key_bundle))
                .map_err(opening("an older key bundle"))?;
        let header = keys.file.header.header();
        let identity = Identity {
            fleet: session.fleet,
            cluster: session.cluster,
            lineage: header.lineage,
            sequence: header.sequence,
            epoch: session.epoch,
            created: self.env.clock.now(),
        };
        let (_, bytes) = bundle::seal_wraps(
            Vec::new(),
            &keys.keyring,
            &opened.content_key,
            info.key_bundle,
            &identity,
            &self.recovery,
            &*self.env.random,
        )?;
        let request = v1::ReplaceWrapsRequest {
            write_id: Some(self.client.next_write_id()),
            cluster_name: String::new(),
            key_bundle_id: Bytes::copy_from_slice(info.key_bundle.as_bytes()),
            wraps: bytes.into(),
        };
        self.client
            .call("renewing wraps", |channel| {
                let request = request.clone();
                async move { KeysClient::new(channel).replace_wraps(request).await }
            })
            .await?;
        Ok(())
    }

    /// Opens wraps of an older point: under a KEK of now, or one that the newest keyring remembers.
    fn open_older(
        &self,
        wraps: &[u8],
        expect: &Expect,
    ) -> Result<bundle::OpenedWraps, BackupError> {
        let what = "the wraps of an older point";
        let first = match self.home.store_secret().open_wraps(wraps, expect) {
            Err(error @ OpenError::WrongKek(_)) => error,
            result => return result.map_err(opening(what)),
        };
        let keks: Vec<&Kek> = match self.newest_keyring() {
            Some(keyring) => keyring.keks().map(|(_, kek)| kek).collect(),
            None => Vec::new(),
        };
        for kek in keks.into_iter().rev() {
            match bundle::open_wraps_with_kek(wraps, kek, expect) {
                Err(OpenError::WrongKek(_)) => {}
                result => return result.map_err(opening(what)),
            }
        }
        Err(opening(what)(first))
    }
}
