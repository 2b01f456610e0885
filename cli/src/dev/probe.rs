//! Tries, for real and with the cluster's own certificate and signing key, to commit a recovery
//! point without the key bundle that opens it. Every coordinator must refuse (invariant B4).

use bundle::{ConfigSealer, Encoding, Keyring, SealedBundle, SigningKey};
use bytes::Bytes;
use proto::fleet_client::{FleetClient, RetryPolicy};
use proto::tls::TlsFiles;
use proto::v1;
use proto::v1::backup_client::BackupClient;
use proto_types::env::Random;
use proto_types::{BundleId, ClusterId, Code, Epoch, FleetId, Sequence, SessionId};

use super::story::Story;
use crate::error::{CliError, Result};

/// Pieces of a bundle in an upload.
const PIECE_BYTES: usize = 256 << 10;
/// The lease's life; the probe takes a second.
const LEASE_MILLIS: u64 = 60_000;

impl Story<'_> {
    /// Sends two commits that must be refused: one without a key bundle, one with an older key
    /// bundle that lacks the key. The agent is stopped meanwhile and started again: the probe's
    /// session fences it, as any newer agent would.
    pub(super) async fn refuse_a_keyless_commit(&mut self) -> Result<()> {
        self.narrator.begin("a commit without its key bundle");
        self.stop_agent().await?;
        let refusals = self.probe().await;
        self.start_agent().await?;
        let [without, with_an_old_one] = refusals?;
        self.narrator.say(&format!(
            "a commit without its key bundle is refused: {without}; with an older key bundle that \
             lacks the key, too: {with_an_old_one}"
        ))
    }

    async fn probe(&self) -> Result<[Code; 2]> {
        let signing = crate::key_files::signing(&self.state.path("agent").join("signing.key"))?;
        let pki = self.state.path("pki");
        let name = format!("agent-{}", self.cluster.name);
        let tls = TlsFiles {
            ca: pki.join("ca.pem"),
            certificate: pki.join(format!("{name}.pem")),
            key: pki.join(format!("{name}.key")),
        };
        let env = self.context.env.clone();
        let addresses = super::configs::addresses(&self.state);
        let client = FleetClient::new(env, addresses, &tls.load()?, RetryPolicy::default())?;
        let random = &*self.context.env.random;
        let request = v1::OpenAgentSessionRequest {
            write_id: Some(client.next_write_id()),
            instance_id: Bytes::copy_from_slice(SessionId::random(random).as_bytes()),
        };
        let session = client
            .call("opening a session", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).open_agent_session(request).await }
            })
            .await?;
        let head = session.head.clone().ok_or_else(|| {
            CliError::new(Code::Internal, "the probe needs a cluster with a recovery point")
        })?;
        let write_id = Some(client.next_write_id());
        let lease = client
            .call("opening an upload", |channel| {
                let request = v1::OpenUploadRequest {
                    write_id: write_id.clone(),
                    epoch: session.epoch,
                    parent_sequence: head.sequence,
                    ttl_ms: LEASE_MILLIS,
                };
                async move { BackupClient::new(channel).open_upload(request).await }
            })
            .await?;
        let sealed = self.seal(&session, &head, &signing)?;
        let mut added = Vec::new();
        for (bundle, bytes) in &sealed {
            added.push(upload(&client, &lease, bundle, bytes).await?);
        }
        let manifest = sealed[1].0.id;
        let mut refusals = Vec::new();
        for (key_bundle_id, wraps_id) in
            [(Bytes::new(), Bytes::new()), (head.key_bundle_id.clone(), head.wraps_id.clone())]
        {
            let content = v1::ChangedPoint {
                added: added.clone(),
                // The new manifest takes the place of the old one.
                dropped: vec![head.manifest_id.clone()],
                manifest_id: Bytes::copy_from_slice(manifest.as_bytes()),
                key_bundle_id,
                wraps_id,
                carried: Vec::new(),
            };
            refusals.push(
                self.refused_commit(&client, &session, &head, &lease.lease_id, content).await?,
            );
        }
        let write_id = Some(client.next_write_id());
        client
            .call("ending the upload", |channel| {
                let request = v1::EndUploadRequest {
                    write_id: write_id.clone(),
                    lease_id: lease.lease_id.clone(),
                    failed: false,
                };
                async move { BackupClient::new(channel).end_upload(request).await }
            })
            .await?;
        Ok([refusals[0], refusals[1]])
    }

    /// A config bundle under a key that no key bundle holds, and a manifest.
    fn seal(
        &self,
        session: &v1::OpenAgentSessionResponse,
        head: &v1::Point,
        signing: &SigningKey,
    ) -> Result<[(SealedBundle, Vec<u8>); 2]> {
        let random: &dyn Random = &*self.context.env.random;
        let now = self.context.env.clock.now();
        let unfit = |what: &str| {
            CliError::new(Code::Internal, format!("the fleet's answer has no valid {what}"))
        };
        let cluster = session.cluster.clone().unwrap_or_default();
        let identity = bundle::Identity {
            fleet: FleetId::from_slice(&session.fleet_id).map_err(|_| unfit("fleet id"))?,
            cluster: ClusterId::from_slice(&cluster.cluster_id).map_err(|_| unfit("cluster id"))?,
            lineage: head.lineage,
            sequence: Sequence::new(head.sequence).next(),
            epoch: Epoch::new(session.epoch),
            created: now,
        };
        let kek = bundle::Kek::generate(random);
        let keyring = Keyring::create(head.lineage, &kek, signing, now, random);
        let failed = |error: bundle::SealError| {
            CliError::new(error.code(), format!("the probe's bundle could not be sealed: {error}"))
        };
        let mut config = ConfigSealer::new(Vec::new(), &keyring, identity).map_err(failed)?;
        let blob = keyring.identify(b"configuration that nobody could ever open again");
        config.seal(&blob, Encoding::Compress, random).map_err(failed)?;
        let config = config.finish().map_err(failed)?;
        let manifest = bundle::Manifest {
            sequence: identity.sequence,
            key_bundle: BundleId::from_slice(&head.key_bundle_id)
                .map_err(|_| unfit("key bundle"))?,
            form: bundle::Form::Full,
            items: Vec::new(),
            totals: bundle::Totals::default(),
            proofs: Vec::new(),
        };
        let predecessor = BundleId::from_slice(&head.manifest_id).map_err(|_| unfit("manifest"))?;
        let manifest =
            bundle::seal_manifest(Vec::new(), &keyring, &identity, predecessor, &manifest, random)
                .map_err(failed)?;
        Ok([config, manifest])
    }

    async fn refused_commit(
        &self,
        client: &FleetClient,
        session: &v1::OpenAgentSessionResponse,
        head: &v1::Point,
        lease_id: &Bytes,
        content: v1::ChangedPoint,
    ) -> Result<Code> {
        let request = v1::CommitPointRequest {
            write_id: Some(client.next_write_id()),
            epoch: session.epoch,
            lease_id: lease_id.clone(),
            sequence: head.sequence + 1,
            parent_manifest_id: head.manifest_id.clone(),
            taken_ms: self.context.env.clock.now().as_millis(),
            content: Some(v1::commit_point_request::Content::Changed(content)),
            proofs: Vec::new(),
            items: 0,
            logical_bytes: 0,
        };
        let answer = client
            .call("committing without the key bundle", |channel| {
                let request = request.clone();
                async move { BackupClient::new(channel).commit_point(request).await }
            })
            .await;
        match answer {
            Err(error) if error.code() == Code::KeyBundleIncomplete => Ok(error.code()),
            Err(error) => Err(CliError::from(error)
                .during("the fleet should have answered KEY_BUNDLE_INCOMPLETE, but")),
            Ok(_) => Err(CliError::new(
                Code::Internal,
                "the fleet acknowledged a recovery point that nobody can open",
            )),
        }
    }
}

async fn upload(
    client: &FleetClient,
    lease: &v1::OpenUploadResponse,
    bundle: &SealedBundle,
    bytes: &[u8],
) -> Result<Bytes> {
    let begin = v1::UploadBundleBegin {
        lease_id: lease.lease_id.clone(),
        lease_log_index: lease.log_index,
        bundle_id: Bytes::copy_from_slice(bundle.id.as_bytes()),
        bytes: bundle.bytes,
        offset: 0,
        kind: bundle.header.header().kind.as_str().to_owned(),
    };
    let mut parts = vec![v1::upload_bundle_request::Part::Begin(begin)];
    parts.extend(
        bytes
            .chunks(PIECE_BYTES)
            .map(|piece| v1::upload_bundle_request::Part::Data(Bytes::copy_from_slice(piece))),
    );
    let messages: Vec<v1::UploadBundleRequest> =
        parts.into_iter().map(|part| v1::UploadBundleRequest { part: Some(part) }).collect();
    client
        .call("uploading the probe's bundle", |channel| {
            let messages = futures::stream::iter(messages.clone());
            async move { BackupClient::new(channel).upload_bundle(messages).await }
        })
        .await?;
    Ok(Bytes::copy_from_slice(bundle.id.as_bytes()))
}
