//! A certificate authority of the fleet's own and a certificate per party, as PEM files in
//! `STATE/pki`, made once and used again. Identities are DNS names (`proto::identity`).

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use proto::identity::Identity;
use proto_types::{Code, FleetId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};

use crate::error::{CliError, Result};
use crate::private_file;

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
/// Certificates of a trial fleet are valid this long; nothing renews them.
const YEARS: i16 = 10;

/// The fleet's certificate authority.
pub(super) struct Pki {
    directory: PathBuf,
    fleet: FleetId,
    key: KeyPair,
    today: Date,
}

/// Where a party's PEM files are.
pub(super) struct Files {
    /// The CA's certificate.
    pub(super) ca: PathBuf,
    /// The party's certificate.
    pub(super) certificate: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
}

impl Pki {
    /// Opens the authority in `directory`, or makes it.
    ///
    /// # Errors
    /// When a file cannot be made, or the one that is there is no key.
    pub(super) fn open(directory: &Path, fleet: FleetId, today: Date) -> Result<Self> {
        private_file::make_directory(directory)?;
        let key_path = directory.join(CA_KEY);
        if key_path.exists() {
            let text = std::fs::read_to_string(&key_path)
                .map_err(|error| CliError::io("read", &key_path, &error))?;
            let key = KeyPair::from_pem(&text).map_err(|error| failed(&error))?;
            return Ok(Self { directory: directory.to_owned(), fleet, key, today });
        }
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let pki = Self { directory: directory.to_owned(), fleet, key, today };
        let certificate = pki.authority()?.self_signed(&pki.key).map_err(|error| failed(&error))?;
        private_file::create(&directory.join(CA_CERTIFICATE), certificate.pem().as_bytes())?;
        // The key last: it is what says that the authority is whole.
        private_file::create(&key_path, pki.key.serialize_pem().as_bytes())?;
        Ok(pki)
    }

    /// The files of a party, made if they are not there. `name` is that of its files; the
    /// identity must not change under the same name.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(super) fn issue(&self, name: &str, identity: &Identity) -> Result<Files> {
        let files = Files {
            ca: self.directory.join(CA_CERTIFICATE),
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        };
        if files.key.exists() && files.certificate.exists() {
            return Ok(files);
        }
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let mut leaf =
            CertificateParams::new(identity.dns_names()).map_err(|error| failed(&error))?;
        leaf.distinguished_name.push(DnType::CommonName, identity.party.to_string());
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.set_validity(&mut leaf);
        let authority = self.authority()?;
        let issuer = Issuer::from_params(&authority, &self.key);
        let certificate = leaf.signed_by(&key, &issuer).map_err(|error| failed(&error))?;
        // Half a pair from an interrupted start is no pair.
        for half in [&files.certificate, &files.key] {
            if half.exists() {
                std::fs::remove_file(half).map_err(|error| CliError::io("remove", half, &error))?;
            }
        }
        private_file::create(&files.certificate, certificate.pem().as_bytes())?;
        private_file::create(&files.key, key.serialize_pem().as_bytes())?;
        Ok(files)
    }

    fn authority(&self) -> Result<CertificateParams> {
        let mut ca =
            CertificateParams::new(Vec::<String>::new()).map_err(|error| failed(&error))?;
        ca.distinguished_name.push(DnType::CommonName, format!("strongroom fleet {}", self.fleet));
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // What it signs can name parties of this fleet only.
        ca.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(format!(
                "{}.strongroom.internal",
                self.fleet
            ))],
            excluded_subtrees: Vec::new(),
        });
        self.set_validity(&mut ca);
        Ok(ca)
    }

    fn set_validity(&self, certificate: &mut CertificateParams) {
        // A day back, for clocks that differ.
        let first = self.today.yesterday().unwrap_or(self.today);
        let day = |date: Date, years: i16| {
            let month = u8::try_from(date.month()).unwrap_or(1);
            // 29 February does not exist in most years.
            let day = u8::try_from(date.day().min(28)).unwrap_or(1);
            date_time_ymd(i32::from(date.year() + years), month, day)
        };
        certificate.not_before = day(first, 0);
        certificate.not_after = day(first, YEARS);
    }
}

fn failed(error: &rcgen::Error) -> CliError {
    CliError::new(Code::Internal, format!("a certificate could not be made: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proto::identity::{Party, Role};
    use proto::tls::TlsFiles;
    use proto_types::{ClusterId, NodeId};

    use super::*;

    #[test]
    fn certificates_name_their_party_and_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let fleet = FleetId::from_bytes([7; 16]);
        let today = jiff::civil::date(2026, 11, 21);
        for party in [
            Party::Coordinator(NodeId::new(2)),
            Party::Agent(ClusterId::from_bytes([9; 16])),
            Party::Operator { name: "dev".into(), role: Role::Admin },
        ] {
            // Opened anew each time, as every start does.
            let pki = Pki::open(directory.path(), fleet, today).unwrap();
            let identity = Identity { fleet, party };
            let files = pki.issue("party", &identity).unwrap();
            let first = std::fs::read(&files.certificate).unwrap();
            pki.issue("party", &identity).unwrap();
            assert_eq!(std::fs::read(&files.certificate).unwrap(), first);
            let tls =
                TlsFiles { ca: files.ca, certificate: files.certificate, key: files.key.clone() };
            assert_eq!(tls.load().unwrap().identity(), &identity);
            assert_eq!(files.key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            std::fs::remove_file(files.key).unwrap();
        }
    }
}
