//! A certificate authority per fleet and a certificate per party, as PEM files: the same shape
//! as an operator makes, with one authority directly over all parties.

use std::path::{Path, PathBuf};

use proto::identity::Identity;
use proto::tls::TlsFiles;
use proto_types::FleetId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};

/// A fleet's authority.
pub struct Pki {
    directory: PathBuf,
    fleet: FleetId,
    key: KeyPair,
    authority: CertificateParams,
}

impl Pki {
    /// Makes an authority with its files in `directory`.
    ///
    /// # Panics
    /// When files cannot be written.
    #[must_use]
    pub fn create(directory: &Path, fleet: FleetId) -> Self {
        std::fs::create_dir_all(directory).expect("a directory can be made");
        let key = KeyPair::generate().expect("a key can be made");
        let authority = authority(fleet);
        let certificate = authority.self_signed(&key).expect("a certificate can be made");
        std::fs::write(directory.join("ca.pem"), certificate.pem()).expect("a file can be made");
        Self { directory: directory.to_owned(), fleet, key, authority }
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Makes a party's certificate, in files called `name`.
    ///
    /// # Panics
    /// When files cannot be written.
    #[must_use]
    pub fn issue(&self, name: &str, party: proto::identity::Party) -> TlsFiles {
        self.issue_identity(name, &Identity { fleet: self.fleet, party })
    }

    /// The same for any identity, also of a fleet that this authority is not of.
    ///
    /// # Panics
    /// When files cannot be written.
    #[must_use]
    pub fn issue_identity(&self, name: &str, identity: &Identity) -> TlsFiles {
        let files = TlsFiles {
            ca: self.ca(),
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        };
        let key = KeyPair::generate().expect("a key can be made");
        let mut leaf =
            CertificateParams::new(identity.dns_names()).expect("identities are DNS names");
        leaf.distinguished_name.push(DnType::CommonName, identity.party.to_string());
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = Issuer::from_params(&self.authority, &self.key);
        let certificate = leaf.signed_by(&key, &issuer).expect("a certificate can be signed");
        std::fs::write(&files.certificate, certificate.pem()).expect("a file can be made");
        std::fs::write(&files.key, key.serialize_pem()).expect("a file can be made");
        files
    }
}

fn authority(fleet: FleetId) -> CertificateParams {
    let mut ca = CertificateParams::new(Vec::<String>::new()).expect("no names are valid names");
    ca.distinguished_name.push(DnType::CommonName, format!("test fleet {fleet}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("strongroom.internal".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    ca
}
