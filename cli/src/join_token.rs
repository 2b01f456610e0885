//! The text of a join token. The operator's program assembles it, so that what it pins is what the
//! operator trusts and not what a coordinator says; the secret in it is drawn here and known to
//! the fleet by its hash only.
//!
//! ```text
//! text    = "strongroom-join-" base64url(bytes)         without padding
//! bytes   = version:u8 = 1  fleet[16]  SHA-256 of the root certificate[32]  secret[32]
//!           count:u8 (length:u8 host:port)*  checksum[4]
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto_types::env::Random;
use proto_types::{Code, FleetId, join_token_hash};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{CliError, Result};

const PREFIX: &str = "strongroom-join-";
const VERSION: u8 = 1;
const CHECKSUM_DOMAIN: &[u8] = b"strongroom join token text v1\0";
/// Coordinators named in a token: any one that answers will do.
const COORDINATORS_MAX: usize = 5;

/// What a coordinator needs to join.
pub struct JoinToken {
    /// The fleet.
    pub fleet: FleetId,
    /// SHA-256 of the fleet's root certificate.
    pub root: [u8; 32],
    secret: Zeroizing<[u8; 32]>,
    /// `host:port` of coordinators to ask.
    pub coordinators: Vec<String>,
}

impl JoinToken {
    /// Draws one.
    ///
    /// # Errors
    /// When an address is too long for a token.
    pub fn draw(
        fleet: FleetId,
        root: [u8; 32],
        coordinators: impl IntoIterator<Item = String>,
        random: &dyn Random,
    ) -> Result<Self> {
        let coordinators: Vec<String> = coordinators.into_iter().take(COORDINATORS_MAX).collect();
        if let Some(long) = coordinators.iter().find(|address| address.len() > 255) {
            return Err(CliError::usage(format!("{long:?} is too long for an address")));
        }
        let mut secret = Zeroizing::new([0; 32]);
        random.fill(&mut secret[..]);
        Ok(Self { fleet, root, secret, coordinators })
    }

    /// The secret, for the fleet that it is of.
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// What the fleet keeps of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        join_token_hash(self.fleet, &self.secret)
    }

    /// The text that a person carries to the new host.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(2048));
        bytes.push(VERSION);
        bytes.extend_from_slice(self.fleet.as_bytes());
        bytes.extend_from_slice(&self.root);
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
            CliError::usage("this is no join token")
                .with_remedy(format!("give what `strongroom node token` printed: {PREFIX}..."))
        })?;
        let mistyped = || {
            CliError::usage("the join token is cut short or mistyped")
                .with_remedy("copy all of it, or make another one with `strongroom node token`")
        };
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new).map_err(|_| mistyped())?;
        match bytes.first() {
            Some(&VERSION) => {}
            Some(newer) => {
                return Err(CliError::new(
                    Code::UnsupportedVersion,
                    format!("the join token has version {newer}, this program reads {VERSION}"),
                )
                .with_remedy("use the strongroom of the fleet"));
            }
            None => return Err(mistyped()),
        }
        let (content, found) = bytes.split_last_chunk::<4>().ok_or_else(mistyped)?;
        if checksum(content) != *found {
            return Err(mistyped());
        }
        Self::parse(content.get(1..).unwrap_or_default()).ok_or_else(mistyped)
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let (fleet, rest) = content.split_first_chunk::<16>()?;
        let (root, rest) = rest.split_first_chunk::<32>()?;
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
            fleet: FleetId::from_bytes(*fleet),
            root: *root,
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
    const FROZEN: &str = "strongroom-join-AQcHBwcHBwcHBwcHBwcHBwcICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJAg0xMC4wLjAuMTo3NDAxEHR3by5leGFtcGxlOjc0MDGxkiTv";

    fn token() -> JoinToken {
        JoinToken {
            fleet: FleetId::from_bytes([7; 16]),
            root: [8; 32],
            secret: Zeroizing::new([9; 32]),
            coordinators: vec!["10.0.0.1:7401".to_owned(), "two.example:7401".to_owned()],
        }
    }

    #[test]
    fn join_tokens_keep_their_text() {
        assert_eq!(token().to_text().as_str(), FROZEN);
        let read = JoinToken::from_text(&format!("  {FROZEN}\n")).unwrap();
        assert_eq!((read.fleet, read.root), (FleetId::from_bytes([7; 16]), [8; 32]));
        assert_eq!((read.secret(), &read.coordinators), (&[9; 32], &token().coordinators));
        assert_eq!(token().hash(), join_token_hash(token().fleet, &[9; 32]));
    }

    #[test]
    fn join_tokens_cut_short_or_mistyped_are_refused_without_being_repeated() {
        for at in 0..FROZEN.len() {
            let mut mistyped = FROZEN.to_owned();
            let other = if &FROZEN[at..=at] == "A" { "B" } else { "A" };
            mistyped.replace_range(at..=at, other);
            for text in [&mistyped, &FROZEN[..at]] {
                let error = JoinToken::from_text(text).err().unwrap();
                assert!(!error.to_string().contains(&FROZEN[20..30]), "{error}");
            }
        }
        assert!(JoinToken::from_text(&format!("{FROZEN}AAAA")).is_err());
    }

    /// Behind the checksum, which anybody can make: a token of nobody's making is refused, or is one
    /// that is written to the same text. The same changes every time.
    #[test]
    fn fuzz_join_tokens_with_checksums_of_their_own() {
        let encoded = FROZEN.strip_prefix(PREFIX).unwrap();
        let whole = URL_SAFE_NO_PAD.decode(encoded).unwrap();
        let content = &whole[..whole.len() - 4];
        let mut number = 0_u64;
        let mut draw = |below: usize| {
            number += 1;
            let digest = Sha256::digest(number.to_le_bytes());
            usize::from_le_bytes(digest[..8].try_into().unwrap()) % below.max(1)
        };
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = content.to_vec();
            for _ in 0..=draw(3) {
                let at = draw(bytes.len());
                match draw(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, [0, 0xff, 2, b':'][draw(4)]),
                    2 if !bytes.is_empty() => bytes[at] = [0, 0xff, 0x80, 3][draw(4)],
                    _ if !bytes.is_empty() => bytes[at] ^= 1 << draw(8),
                    _ => {}
                }
            }
            let text = [&bytes[..], &checksum(&bytes)].concat();
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(text));
            if let Ok(token) = JoinToken::from_text(&text) {
                read += 1;
                assert_eq!(*token.to_text(), text);
            }
        }
        assert!(read > 1_000, "the changes reach behind the checksum: {read}");
    }
}
