//! The text of an enrolment token. As of a join token, the operator's program assembles it: it pins
//! the root and the recovery key that the operator trusts, whatever a coordinator says.
//!
//! ```text
//! text    = "strongroom-enroll-" base64url(bytes)       without padding
//! bytes   = version:u8 = 1  kind:u8  fleet[16]  SHA-256 of the root certificate[32]
//!           fingerprint of the recovery key[32]  secret[32]
//!           count:u8 (length:u8 host:port)*  checksum[4]
//! kind    = 1: the agent of one cluster   2: an operator   3: agents that wait for approval
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto_types::env::Random;
use proto_types::{Code, FleetId, KeyFingerprint, enrol_token_hash};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{CliError, Result};

const PREFIX: &str = "strongroom-enroll-";
const VERSION: u8 = 1;
const CHECKSUM_DOMAIN: &[u8] = b"strongroom enrolment token text v1\0";
/// Coordinators named in a token: any one that answers will do.
const COORDINATORS_MAX: usize = 5;

/// Whom a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// The agent of one cluster.
    Agent,
    /// An operator.
    Operator,
    /// Agents that say their cluster's name and wait for approval.
    Agents,
}

impl TokenKind {
    const fn number(self) -> u8 {
        match self {
            Self::Agent => 1,
            Self::Operator => 2,
            Self::Agents => 3,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::Agent, Self::Operator, Self::Agents].into_iter().find(|kind| kind.number() == number)
    }
}

/// What an agent or operator needs to enrol.
pub struct EnrolToken {
    /// Whom it is for.
    pub kind: TokenKind,
    /// The fleet.
    pub fleet: FleetId,
    /// SHA-256 of the fleet's root certificate.
    pub root: [u8; 32],
    /// The fleet's recovery key.
    pub recovery: KeyFingerprint,
    secret: Zeroizing<[u8; 32]>,
    /// `host:port` of coordinators to ask.
    pub coordinators: Vec<String>,
}

impl EnrolToken {
    /// Draws one.
    ///
    /// # Errors
    /// When an address is too long for a token.
    pub fn draw(
        kind: TokenKind,
        fleet: FleetId,
        root: [u8; 32],
        recovery: KeyFingerprint,
        coordinators: &[String],
        random: &dyn Random,
    ) -> Result<Self> {
        let coordinators: Vec<String> =
            coordinators.iter().take(COORDINATORS_MAX).cloned().collect();
        if let Some(long) = coordinators.iter().find(|address| address.len() > 255) {
            return Err(CliError::usage(format!("{long:?} is too long for an address")));
        }
        let mut secret = Zeroizing::new([0; 32]);
        random.fill(&mut secret[..]);
        Ok(Self { kind, fleet, root, recovery, secret, coordinators })
    }

    /// The secret, for the fleet that it is of.
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// What the fleet keeps of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        enrol_token_hash(self.fleet, &self.secret)
    }

    /// The text that a person carries to where it is used.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(2048));
        bytes.extend_from_slice(&[VERSION, self.kind.number()]);
        bytes.extend_from_slice(self.fleet.as_bytes());
        bytes.extend_from_slice(&self.root);
        bytes.extend_from_slice(self.recovery.as_bytes());
        bytes.extend_from_slice(&self.secret[..]);
        bytes.push(u8::try_from(self.coordinators.len()).expect("few coordinators"));
        for address in &self.coordinators {
            bytes.push(u8::try_from(address.len()).expect("checked when it was drawn"));
            bytes.extend_from_slice(address.as_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let mut text = Zeroizing::new(String::with_capacity(4096));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&bytes[..], &mut text);
        text
    }

    /// Reads the text.
    ///
    /// # Errors
    /// When it is no token, cut short or mistyped, or of a newer program. The text is not repeated:
    /// it is a secret.
    pub fn from_text(text: &str) -> Result<Self> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or_else(|| {
            CliError::usage("this is no enrolment token").with_remedy(format!(
                "give what `strongroom cluster enroll` or `operator add` printed: {PREFIX}..."
            ))
        })?;
        let mistyped = || {
            CliError::usage("the enrolment token is cut short or mistyped")
                .with_remedy("copy all of it, or have another one made")
        };
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new).map_err(|_| mistyped())?;
        if let Some(newer) = bytes.first().filter(|version| **version != VERSION) {
            return Err(CliError::new(
                Code::UnsupportedVersion,
                format!("the token has version {newer}, this program reads {VERSION}"),
            )
            .with_remedy("use the strongroom of the fleet"));
        }
        let (content, found) = bytes.split_last_chunk::<4>().ok_or_else(mistyped)?;
        if checksum(content) != *found {
            return Err(mistyped());
        }
        Self::parse(content.get(1..).unwrap_or_default()).ok_or_else(mistyped)
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let (kind, rest) = content.split_first()?;
        let (fleet, rest) = rest.split_first_chunk::<16>()?;
        let (root, rest) = rest.split_first_chunk::<32>()?;
        let (recovery, rest) = rest.split_first_chunk::<32>()?;
        let (secret, rest) = rest.split_first_chunk::<32>()?;
        let (count, mut rest) = rest.split_first()?;
        let mut coordinators = Vec::new();
        for _ in 0..*count {
            let (length, more) = rest.split_first()?;
            let (address, more) = more.split_at_checked(usize::from(*length))?;
            coordinators.push(std::str::from_utf8(address).ok()?.to_owned());
            rest = more;
        }
        let token = Self {
            kind: TokenKind::of(*kind)?,
            fleet: FleetId::from_bytes(*fleet),
            root: *root,
            recovery: KeyFingerprint::from_bytes(*recovery),
            secret: Zeroizing::new(*secret),
            coordinators,
        };
        (rest.is_empty() && !token.coordinators.is_empty()).then_some(token)
    }
}

fn checksum(content: &[u8]) -> [u8; 4] {
    let digest: [u8; 32] = Sha256::digest([CHECKSUM_DOMAIN, content].concat()).into();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drawn once; every later version must read it.
    const FROZEN: &str = "strongroom-enroll-AQEHBwcHBwcHBwcHBwcHBwcHCAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJAg0xMC4wLjAuMTo3NDAxEHR3by5leGFtcGxlOjc0MDGtPcng";

    fn token(kind: TokenKind) -> EnrolToken {
        EnrolToken {
            kind,
            fleet: FleetId::from_bytes([7; 16]),
            root: [8; 32],
            recovery: KeyFingerprint::from_bytes([6; 32]),
            secret: Zeroizing::new([9; 32]),
            coordinators: vec!["10.0.0.1:7401".to_owned(), "two.example:7401".to_owned()],
        }
    }

    #[test]
    fn enroll_tokens_keep_their_text() {
        assert_eq!(token(TokenKind::Agent).to_text().as_str(), FROZEN);
        for kind in [TokenKind::Agent, TokenKind::Operator, TokenKind::Agents] {
            let token = token(kind);
            let read = EnrolToken::from_text(&format!("  {}\n", *token.to_text())).unwrap();
            assert_eq!((read.kind, read.fleet, read.root), (kind, token.fleet, [8; 32]));
            assert_eq!((read.secret(), read.recovery), (&[9; 32], token.recovery));
            assert_eq!(read.coordinators, token.coordinators);
            assert_eq!(read.hash(), enrol_token_hash(token.fleet, &[9; 32]));
        }
    }

    #[test]
    fn enroll_tokens_cut_short_or_mistyped_are_refused_without_being_repeated() {
        for at in 0..FROZEN.len() {
            let mut mistyped = FROZEN.to_owned();
            let other = if &FROZEN[at..=at] == "A" { "B" } else { "A" };
            mistyped.replace_range(at..=at, other);
            for text in [&mistyped, &FROZEN[..at]] {
                let error = EnrolToken::from_text(text).err().unwrap();
                assert!(!error.to_string().contains(&FROZEN[20..30]), "{error}");
            }
        }
        assert!(EnrolToken::from_text(&format!("{FROZEN}AAAA")).is_err());
    }
}
