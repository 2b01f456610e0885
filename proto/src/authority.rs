//! The fleet's certificates: a root, whose key is nowhere but sealed to the recovery key; an
//! intermediate, which coordinators hold and with which they certify whoever joins; and a
//! certificate per party. Identities are DNS names (`crate::identity`), and both authorities may
//! name nobody else.

use std::time::Duration;

use proto_types::env::Random;
use proto_types::{Code, FleetId, LogTime};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PublicKeyData, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::error::ApiError;
use crate::identity::{Identity, Party, SUFFIX};

/// Before the generation, in the subject of a certificate.
const GENERATION: &str = "generation ";
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const YEAR_MS: u64 = 365 * DAY_MS + DAY_MS / 4;
/// How long a root is valid: nobody can sign a new one in its place but by founding anew.
const ROOT_MS: u64 = 20 * YEAR_MS;
/// How long an intermediate is valid; nothing it certifies is longer.
const INTERMEDIATE_MS: u64 = 5 * YEAR_MS;
/// When people are told that the intermediate ends: a year ahead.
pub const NOTICE_MS: u64 = YEAR_MS;

/// What a certificate says besides who it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Which of the party's enrolments it belongs to; 0 of what came with the fleet's first files.
    pub generation: u32,
    /// How long it is valid, in milliseconds; never longer than the intermediate.
    pub life_ms: u64,
}

impl Term {
    /// Of a party's first certificate, made where the authority itself is, by default.
    #[must_use]
    pub const fn first(party: &Party) -> Self {
        Self { generation: 0, life_ms: default_life_ms(party) }
    }
}

/// How long certificates are valid where nobody says otherwise. A coordinator's is the longest: a
/// fleet that stands still for a season comes back by itself.
#[must_use]
pub const fn default_life_ms(party: &Party) -> u64 {
    match party {
        Party::Coordinator(_) => YEAR_MS,
        Party::Agent(_) | Party::Operator { .. } => 90 * DAY_MS,
    }
}

/// When a certificate was made and ends, and its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// See [`Term`].
    pub generation: u32,
    /// When it was made, to the second.
    pub made: LogTime,
    /// When it ends, to the second.
    pub ends: LogTime,
}

impl Facts {
    /// Reads them out of a certificate (DER).
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when it is damaged.
    pub fn of(der: &[u8]) -> Result<Self, ApiError> {
        let parsed = parse(der)?;
        let unit = parsed.subject().iter_organizational_unit().next();
        let generation = match unit.and_then(|unit| unit.as_str().ok()) {
            None => 0,
            Some(text) => text
                .strip_prefix(GENERATION)
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| unusable("a certificate has a generation that is none"))?,
        };
        let at =
            |time: i64| LogTime::from_millis(u64::try_from(time).unwrap_or(0).saturating_mul(1000));
        let validity = parsed.validity();
        Ok(Self {
            generation,
            made: at(validity.not_before.timestamp()).plus_millis(DAY_MS),
            ends: at(validity.not_after.timestamp()),
        })
    }

    /// When two thirds of its life are over.
    #[must_use]
    pub fn renews(&self) -> LogTime {
        self.made.plus_millis(self.ends.millis_since(self.made) / 3 * 2)
    }
}

/// SHA-256 of a certificate: what tokens pin.
#[must_use]
pub fn certificate_digest(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

/// PEM text of a certificate.
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

/// All certificates of a PEM text, as DER.
///
/// # Errors
/// `UNAUTHENTICATED` when there is none, or one is damaged.
pub fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ApiError> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(unusable("it holds no certificate")),
        Err(error) => Err(unusable(&error.to_string())),
    }
}

/// The private key of a party, an intermediate or a root, with its public half.
pub struct PrivateKey(Zeroizing<KeyPair>);

impl PrivateKey {
    /// Draws one, for ECDSA on P-256.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, ApiError> {
        KeyPair::generate().map(|key| Self(Zeroizing::new(key))).map_err(|error| failed(&error))
    }

    /// Reads one from PEM text.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when it is none.
    pub fn from_pem(pem: &str) -> Result<Self, ApiError> {
        let key = KeyPair::from_pem(pem);
        key.map(|key| Self(Zeroizing::new(key))).map_err(|error| unusable(&error.to_string()))
    }

    /// Reads one from a PKCS#8 document.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when it is none.
    pub fn from_der(der: &[u8]) -> Result<Self, ApiError> {
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(der));
        key.map(|key| Self(Zeroizing::new(key))).map_err(|error| unusable(&error.to_string()))
    }

    /// PEM text, for a file that only its owner may read.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// PKCS#8, to be sealed.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        self.0.serialized_der()
    }

    /// A request for a certificate of this key (PKCS#10, DER). It asks for no name: whoever signs
    /// it says who this is.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn request(&self) -> Result<Vec<u8>, ApiError> {
        let request = CertificateParams::default().serialize_request(&*self.0);
        request.map(|request| request.der().to_vec()).map_err(|error| failed(&error))
    }
}

/// The fleet's root. It exists in memory for as long as an intermediate is signed.
pub struct Root {
    key: PrivateKey,
    certificate: Vec<u8>,
}

impl Root {
    /// Draws the root of a new fleet.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn create(fleet: FleetId, now: LogTime, random: &dyn Random) -> Result<Self, ApiError> {
        let key = PrivateKey::generate()?;
        let mut params = authority_params(&format!("strongroom fleet {fleet} root"), 1, SUFFIX);
        set_validity(&mut params, now, now.plus_millis(ROOT_MS), random);
        let certificate = params.self_signed(&*key.0).map_err(|error| failed(&error))?;
        Ok(Self { key, certificate: certificate.der().to_vec() })
    }

    /// The root of this certificate (DER), its private key (PKCS#8) opened by the recovery key.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when the key is not the certificate's.
    pub fn reopen(certificate: &[u8], key: &[u8]) -> Result<Self, ApiError> {
        let key = PrivateKey::from_der(key)?;
        if !is_key_of(&key, certificate)? {
            return Err(unusable("the root's key is not that of its certificate"));
        }
        Ok(Self { key, certificate: certificate.to_vec() })
    }

    /// Its certificate (DER), which everybody trusts.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its private key, to be sealed to the recovery key and to nothing else.
    #[must_use]
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Signs a new intermediate, for coordinators to hold.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn intermediate(
        &self,
        fleet: FleetId,
        now: LogTime,
        random: &dyn Random,
    ) -> Result<Intermediate, ApiError> {
        let key = PrivateKey::generate()?;
        let name = format!("strongroom fleet {fleet} coordinators");
        let mut params = authority_params(&name, 0, &format!("{fleet}.{SUFFIX}"));
        let end = now.plus_millis(INTERMEDIATE_MS).min(not_after(&self.certificate)?);
        set_validity(&mut params, now, end, random);
        let der = CertificateDer::from(self.certificate.as_slice());
        let issuer =
            Issuer::from_ca_cert_der(&der, &*self.key.0).map_err(|error| failed(&error))?;
        let signed = params.signed_by(&*key.0, &issuer).map_err(|error| failed(&error))?;
        let chain = certificate_pem(signed.der()) + &certificate_pem(&self.certificate);
        Intermediate::new(chain, key)
    }
}

/// What coordinators certify with.
pub struct Intermediate {
    /// PEM text of its certificate and the root's.
    chain: String,
    root: Vec<u8>,
    key: PrivateKey,
    certificate: Vec<u8>,
    ends: LogTime,
}

/// A certificate that was signed, with those above it up to the root, as PEM text.
pub struct Certified {
    /// The party's own first.
    pub chain: String,
    /// SHA-256 of the public key it certifies.
    pub key: [u8; 32],
}

impl Intermediate {
    /// Reads it from PEM text: its certificate and after it the root's, and its key.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when they do not belong together.
    pub fn from_pem(chain: &[u8], key: &str) -> Result<Self, ApiError> {
        let chain = std::str::from_utf8(chain).map_err(|_| unusable("it is no PEM text"))?;
        Self::new(chain.to_owned(), PrivateKey::from_pem(key)?)
    }

    fn new(chain: String, key: PrivateKey) -> Result<Self, ApiError> {
        let all = certificates_of(chain.as_bytes())?;
        let [own, root] = &all[..] else {
            return Err(unusable("it must hold the coordinators' certificate and the root's"));
        };
        let parsed = parse(own)?;
        let issued = parsed.verify_signature(Some(parse(root)?.public_key())).is_ok();
        if !parsed.is_ca() || !issued || !is_key_of(&key, own)? {
            return Err(unusable("certificate, root and key do not belong together"));
        }
        let (root, certificate, ends) = (root.to_vec(), own.to_vec(), not_after(own)?);
        Ok(Self { chain, root, key, certificate, ends })
    }

    /// PEM text of its certificate and the root's, for the file beside its key.
    #[must_use]
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Its private key, for coordinators only.
    #[must_use]
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The root's certificate (DER).
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// When it ends, and with it all that it certified.
    #[must_use]
    pub const fn ends(&self) -> LogTime {
        self.ends
    }

    /// Certifies a party whose key is at hand.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn certify(
        &self,
        identity: &Identity,
        key: &PrivateKey,
        term: &Term,
        now: LogTime,
        random: &dyn Random,
    ) -> Result<Certified, ApiError> {
        self.sign(identity, &*key.0, term, now, random)
    }

    /// Certifies the key of a request (PKCS#10, DER), whose signature proves that the asker holds
    /// it. What else the request asks for is not looked at.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when it is none; otherwise when it cannot be signed.
    pub fn certify_request(
        &self,
        identity: &Identity,
        request: &[u8],
        term: &Term,
        now: LogTime,
        random: &dyn Random,
    ) -> Result<Certified, ApiError> {
        self.sign(identity, &read_request(request)?.public_key, term, now, random)
    }

    fn sign(
        &self,
        identity: &Identity,
        key: &impl PublicKeyData,
        term: &Term,
        now: LogTime,
        random: &dyn Random,
    ) -> Result<Certified, ApiError> {
        let mut params =
            CertificateParams::new(identity.dns_names()).map_err(|error| failed(&error))?;
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, identity.party.to_string());
        if term.generation > 0 {
            let unit = format!("{GENERATION}{}", term.generation);
            params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, now, now.plus_millis(term.life_ms).min(self.ends), random);
        let der = CertificateDer::from(self.certificate.as_slice());
        let issuer =
            Issuer::from_ca_cert_der(&der, &*self.key.0).map_err(|error| failed(&error))?;
        let signed = params.signed_by(key, &issuer).map_err(|error| failed(&error))?;
        let public = key.subject_public_key_info();
        Ok(Certified {
            chain: certificate_pem(signed.der()) + &self.chain,
            key: Sha256::digest(public).into(),
        })
    }
}

/// SHA-256 of the public key that a request (PKCS#10, DER) is for.
///
/// # Errors
/// `INVALID_ARGUMENT` when it is none, or is not signed by that key.
pub fn requested_key(request: &[u8]) -> Result<[u8; 32], ApiError> {
    Ok(Sha256::digest(read_request(request)?.public_key.subject_public_key_info()).into())
}

fn read_request(request: &[u8]) -> Result<CertificateSigningRequestParams, ApiError> {
    let der = CertificateSigningRequestDer::from(request);
    CertificateSigningRequestParams::from_der(&der).map_err(|error| {
        ApiError::new(
            Code::InvalidArgument,
            format!("the certificate request cannot be used: {error}"),
        )
    })
}

fn authority_params(name: &str, below: u8, may_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(may_name.to_owned())],
        excluded_subtrees: Vec::new(),
    });
    params
}

fn set_validity(params: &mut CertificateParams, now: LogTime, end: LogTime, random: &dyn Random) {
    let at = |time: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(time / 1000);
    // A day back, for clocks that differ.
    params.not_before = at(now.as_millis().saturating_sub(DAY_MS));
    params.not_after = at(end.as_millis());
    let mut serial = [0; 16];
    random.fill(&mut serial);
    // Positive, and never shortened.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, ApiError> {
    let parsed = X509Certificate::from_der(der);
    parsed.map(|(_, certificate)| certificate).map_err(|_| unusable("a certificate is damaged"))
}

fn not_after(der: &[u8]) -> Result<LogTime, ApiError> {
    let seconds = parse(der)?.validity().not_after.timestamp();
    Ok(LogTime::from_millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)))
}

/// Whether a certificate (DER) is of this key.
///
/// # Errors
/// `UNAUTHENTICATED` when it is damaged.
pub fn is_key_of(key: &PrivateKey, certificate: &[u8]) -> Result<bool, ApiError> {
    let certified = parse(certificate)?;
    Ok(certified.public_key().raw == key.0.subject_public_key_info())
}

fn unusable(why: &str) -> ApiError {
    ApiError::new(Code::Unauthenticated, format!("the certificate authority cannot be used: {why}"))
}

fn failed(error: &rcgen::Error) -> ApiError {
    ApiError::new(Code::Internal, format!("a certificate could not be made: {error}"))
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
