//! When keys are lost. A signing key is taken out of the newest key bundle again; where the KEK that
//! opens the newest point is unknown, the cluster begins a new lineage, with a full point under new
//! keys that follows the one nobody here can open (design section 5).

use bundle::{Expect, FormerRecovery, OpenError, RecoveryPublic};
use bytes::Bytes;
use proto::v1;
use proto::v1::keys_client::KeysClient;
use proto_types::{BundleId, BundleKind, FleetId, LineageStatement, SigningPublicKey};

use super::engine::Engine;
use super::keys::Blind;
use super::previous::{Head, Previous};
use super::{BackupError, opening};
use crate::key_notices::Notice;

fn is_wrong_kek(error: &BackupError) -> bool {
    matches!(error, BackupError::Open { source, .. } if matches!(**source, OpenError::WrongKek(_)))
}

impl Engine {
    /// Opens the newest point, or begins anew behind it.
    pub(super) async fn open_or_begin_anew(
        &mut self,
        head: Option<&v1::Point>,
    ) -> Result<Option<Previous>, BackupError> {
        let session = self.session.as_mut().ok_or(BackupError::Lost)?;
        session.blind = None;
        let (lineage, registered) = (session.lineage, session.signer);
        let ours = self.home.signing_key().public();
        let Some(point) = head else {
            if registered != ours {
                self.begin_lineage().await?;
            }
            return Ok(None);
        };
        if registered != ours {
            match self.find_signing_key(point, &registered).await {
                Ok(()) => {}
                Err(error) if is_wrong_kek(&error) => self.begin_lineage().await?,
                Err(error) => return Err(error),
            }
        } else if point.lineage == lineage {
            match self.open_previous(point).await {
                Ok(previous) => return Ok(Some(previous)),
                Err(error) if is_wrong_kek(&error) => self.begin_lineage().await?,
                Err(error) => return Err(error),
            }
        }
        // With the signing key found again the point may open after all.
        let session = self.session.as_ref().ok_or(BackupError::Lost)?;
        if point.lineage == session.lineage {
            return self.open_previous(point).await.map(Some);
        }
        let needs = point
            .bundles
            .iter()
            .map(|info| BundleId::from_slice(&info.bundle_id))
            .collect::<Result<_, _>>()
            .map_err(|_| BackupError::Answer("the newest point's bundles"))?;
        let blind = Blind { head: Head::from_wire(point)?, needs };
        let session = self.session.as_mut().ok_or(BackupError::Lost)?;
        session.blind = Some(blind);
        Ok(None)
    }

    /// Takes the cluster's signing key out of its newest key bundle.
    async fn find_signing_key(
        &self,
        point: &v1::Point,
        registered: &SigningPublicKey,
    ) -> Result<(), BackupError> {
        let session = self.session.as_ref().ok_or(BackupError::Lost)?;
        let shelf = self.shelf(session);
        let head = Head::from_wire(point)?;
        let expect = Expect::of(session.fleet, session.cluster).signed_by(*registered);
        let wraps = shelf.sealed(&head, head.wraps, BundleKind::Wraps).await?;
        let wraps = self
            .home
            .store_secret()
            .open_wraps(&wraps, &expect.with_id(head.wraps))
            .map_err(opening("the wraps of the last point"))?;
        let keys = shelf.sealed(&head, head.key_bundle, BundleKind::Key).await?;
        let keys =
            bundle::open_key_bundle(&keys, &wraps.content_key, &expect.with_id(head.key_bundle))
                .map_err(opening("the key bundle of the last point"))?;
        let found = keys.keyring.signing_key();
        if found.public() != *registered {
            let registered = registered.fingerprint();
            return Err(BackupError::OtherSigningKey {
                registered,
                ours: found.public().fingerprint(),
            });
        }
        self.home.add_notice(Notice::SigningKeyFound)?;
        self.home.keep_found_signing_key(found)?;
        tracing::warn!("signing_key_found");
        Ok(())
    }

    /// Tells the fleet that this cluster's keys begin anew.
    async fn begin_lineage(&mut self) -> Result<(), BackupError> {
        let session = self.session.as_ref().ok_or(BackupError::Lost)?;
        let key = self.home.signing_key();
        let statement = LineageStatement {
            fleet: session.fleet,
            cluster: session.cluster,
            lineage: session.lineage + 1,
            signing_key: key.public(),
        };
        self.home.add_notice(Notice::LineageBegun)?;
        let request = v1::BeginLineageRequest {
            write_id: Some(self.client.next_write_id()),
            epoch: session.epoch.get(),
            lineage: statement.lineage,
            signing_key: Bytes::copy_from_slice(key.public().as_bytes()),
            signature: Bytes::copy_from_slice(&key.sign_lineage(&statement)),
        };
        let response = self
            .client
            .call("beginning a new lineage of keys", |channel| {
                let request = request.clone();
                async move { KeysClient::new(channel).begin_lineage(request).await }
            })
            .await?;
        if self.home.signing_key_is_new() {
            self.home.keep_signing_key()?;
        }
        tracing::warn!(
            lineage = response.lineage,
            approved = response.approved,
            signing_key = %key.public().fingerprint(),
            "key_lineage_begun"
        );
        let session = self.session.as_mut().ok_or(BackupError::Lost)?;
        session.lineage = response.lineage;
        session.signer = key.public();
        Ok(())
    }

    /// The fleet's recovery key: the pinned one, or one that the pinned one named by its signature,
    /// however many steps away (invariant K3).
    pub(super) fn follow_recovery(
        &mut self,
        fleet: FleetId,
        found: RecoveryPublic,
        former: &[v1::FormerRecoveryKey],
    ) -> Result<(), BackupError> {
        self.known_generation = u32::try_from(former.len()).unwrap_or(u32::MAX);
        if found == self.recovery {
            return Ok(());
        }
        let other = || BackupError::OtherRecoveryKey {
            pinned: self.recovery.fingerprint(),
            found: found.fingerprint(),
        };
        let half = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map_err(|_| other());
        let steps = former
            .iter()
            .map(|row| {
                Ok(FormerRecovery {
                    key: RecoveryPublic { hpke: half(&row.hpke)?, signing: half(&row.signing)? },
                    signature: row.signature[..].try_into().map_err(|_| other())?,
                })
            })
            .collect::<Result<Vec<_>, BackupError>>()?;
        if !self.recovery.leads_to(fleet, &steps, &found) {
            return Err(other());
        }
        self.home.keep_recovery(&self.configured_recovery, &found)?;
        tracing::warn!(
            before = %self.recovery.fingerprint(),
            now = %found.fingerprint(),
            "recovery_key_followed"
        );
        self.recovery = found;
        Ok(())
    }
}
