//! Makes enrolment tokens for the operator: draws the secret, pins what the operator trusts, and has
//! the fleet know its hash.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use proto::fleet_client::FleetClient;
use proto::v1;
use proto::v1::enrolment_client::EnrolmentClient;
use proto_types::{Code, FleetId, KeyFingerprint, LogTime};
use serde::Serialize;

use crate::context::Context;
use crate::enrol_token::{EnrolToken, TokenKind};
use crate::error::{CliError, Result};
use crate::operator::{self, Operator};
use crate::operator_files::RECOVERY;
use crate::{key_files, when};

/// What a token is to let somebody become.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// A cluster's name.
    pub cluster: String,
    /// An operator's name.
    pub operator: String,
    /// Of the operator.
    pub role: String,
    /// Of new clusters.
    pub labels: BTreeMap<String, String>,
    /// What it has becomes void when the token is used.
    pub again: bool,
    /// How many agents, where neither is named; else 1.
    pub count: u32,
    /// How long it can be used, in milliseconds.
    pub ttl_ms: u64,
}

/// A token that was made.
#[derive(Debug, Serialize)]
pub struct TokenView {
    /// The secret text.
    pub token: String,
    /// The cluster, where it names one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// Its id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_id: String,
    /// The operator, where it names one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// What to run.
    pub command: String,
    /// Until when.
    pub expires: String,
    /// The same.
    pub expires_ms: u64,
}

/// Makes tokens, one after the other.
pub struct Maker {
    client: Arc<FleetClient>,
    root: [u8; 32],
    fleet: FleetId,
    recovery: KeyFingerprint,
    coordinators: Vec<String>,
}

impl Maker {
    /// For the operator of the command line. `recovery_key` is the file that says which recovery key
    /// tokens pin; else the one in the operator's directory.
    ///
    /// # Errors
    /// `WRONG_KEY` when the fleet has another recovery key than the operator trusts.
    pub async fn of(context: &Context, recovery_key: Option<&PathBuf>) -> Result<Self> {
        let directory = context.operator_dir()?;
        let operator = Operator::load(&directory)?;
        let client = operator.connect(context)?;
        let status = client
            .call("asking who the coordinators are", |channel| async move {
                v1::fleet_client::FleetClient::new(channel)
                    .get_status(v1::GetStatusRequest { stale: false })
                    .await
            })
            .await?;
        let fleet = FleetId::from_slice(&status.fleet_id)
            .map_err(|_| CliError::new(Code::Internal, "the status names no fleet"))?;
        let said = KeyFingerprint::from_slice(&status.recovery_key_fingerprint)
            .map_err(|_| CliError::new(Code::Internal, "the status names no recovery key"))?;
        let own = directory.join(RECOVERY);
        let pinned = recovery_key.or_else(|| own.exists().then_some(&own));
        match pinned {
            Some(path) => {
                let trusted = key_files::recovery_public(path)?.fingerprint();
                if trusted != said {
                    return Err(CliError::new(
                        Code::WrongKey,
                        format!(
                            "the coordinators say that the fleet's recovery key is {said}, {} has \
                             {trusted}",
                            agent::shown::path(path)
                        ),
                    )
                    .with_remedy(
                        "if the recovery key was changed, give the new recovery.pub with \
                         --recovery-key; if not, do not trust these coordinators",
                    ));
                }
            }
            None => context.screen.note(&format!(
                "the token pins the recovery key that the coordinators named, {said}: compare it, \
                 or give recovery.pub with --recovery-key"
            )),
        }
        // Those that vote stay; who is only learning may be the next to go.
        let (voters, learners): (Vec<_>, Vec<_>) = status.nodes.iter().partition(|node| node.voter);
        let coordinators =
            voters.into_iter().chain(learners).map(|node| node.address.clone()).collect();
        let root = operator.root_pin()?;
        Ok(Self { client, root, fleet, recovery: said, coordinators })
    }

    /// Makes one.
    ///
    /// # Errors
    /// What the fleet refuses; `WRONG_FLEET` when its root is not the one that the operator trusts.
    pub async fn make(&self, wanted: &Wanted, context: &Context) -> Result<TokenView> {
        let kind = match (wanted.cluster.is_empty(), wanted.operator.is_empty()) {
            (false, _) => TokenKind::Agent,
            (true, false) => TokenKind::Operator,
            (true, true) => TokenKind::Agents,
        };
        let token = EnrolToken::draw(
            kind,
            self.fleet,
            self.root,
            self.recovery,
            &self.coordinators,
            &*context.env.random,
        )?;
        let request = v1::CreateEnrolTokenRequest {
            write_id: Some(self.client.next_write_id()),
            token_hash: token.hash().to_vec().into(),
            cluster: wanted.cluster.clone(),
            operator: wanted.operator.clone(),
            role: wanted.role.clone(),
            labels: wanted.labels.clone().into_iter().collect(),
            again: wanted.again,
            count: wanted.count,
            ttl_ms: wanted.ttl_ms,
        };
        let answer = self
            .client
            .call("making the token", |channel| {
                let request = request.clone();
                async move { EnrolmentClient::new(channel).create_enrol_token(request).await }
            })
            .await?;
        if answer.root_sha256[..] != self.root {
            return Err(CliError::new(
                Code::WrongFleet,
                "the fleet's root certificate is not the one this operator trusts",
            )
            .with_remedy("compare the ca of operator.toml with the coordinators' tls/ca.pem"));
        }
        let text = token.to_text().to_string();
        let command = match kind {
            TokenKind::Agent => format!("strongroom agent enroll {text} --dir DIR"),
            TokenKind::Agents => format!("strongroom agent enroll {text} --dir DIR --name NAME"),
            TokenKind::Operator => format!("strongroom operator enroll {text} --dir DIR"),
        };
        Ok(TokenView {
            token: text,
            cluster: wanted.cluster.clone(),
            cluster_id: hex::encode(&answer.cluster_id),
            operator: wanted.operator.clone(),
            command,
            expires: when::rfc3339(LogTime::from_millis(answer.expires_ms)),
            expires_ms: answer.expires_ms,
        })
    }

    /// The client that it asks.
    #[must_use]
    pub const fn client(&self) -> &Arc<FleetClient> {
        &self.client
    }
}

/// Makes void what a cluster's agents or an operator have.
///
/// # Errors
/// What the fleet refuses.
pub async fn revoke(cluster: &str, named: &str, context: &Context) -> Result<bool> {
    let (_, client) = operator::connect(context)?;
    let request = v1::RevokeRequest {
        write_id: Some(client.next_write_id()),
        cluster: cluster.to_owned(),
        operator: named.to_owned(),
    };
    let answer = client
        .call("revoking", |channel| {
            let request = request.clone();
            async move { EnrolmentClient::new(channel).revoke(request).await }
        })
        .await?;
    Ok(answer.was_known)
}

/// Who is enrolled, which tokens are open, and who waits.
///
/// # Errors
/// When the fleet does not answer.
pub async fn list(client: &FleetClient, stale: bool) -> Result<v1::ListEnrolmentsResponse> {
    let listed = client
        .call("listing who is enrolled", |channel| async move {
            EnrolmentClient::new(channel).list_enrolments(v1::ListEnrolmentsRequest { stale }).await
        })
        .await;
    Ok(listed?)
}
