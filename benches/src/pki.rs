//! The certificates of a fleet that lives as long as a measurement: an authority and a leaf per
//! party, with the DNS names that tell the product who they are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proto::tls::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The authority.
pub(crate) struct Pki {
    directory: PathBuf,
    fleet: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a party's PEM files are.
#[derive(Debug)]
pub(crate) struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    /// The same for a client in this process.
    pub(crate) fn tls(&self) -> TlsFiles {
        TlsFiles {
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }

    /// The `[tls]` table of a config file.
    pub(crate) fn table(&self) -> String {
        format!(
            "[tls]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
            self.ca, self.certificate, self.key
        )
    }
}

impl Pki {
    /// Makes an authority in `directory` for the fleet with this id.
    pub(crate) fn new(directory: &Path, fleet: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::<String>::new())?;
        ca.distinguished_name.push(DnType::CommonName, "strongroom benches");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        write(&directory.join("ca.pem"), &ca.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(ca, key);
        Ok(Self { directory: directory.to_owned(), fleet: fleet.to_owned(), issuer })
    }

    /// Makes the files of a coordinator.
    pub(crate) fn coordinator(&self, node: usize) -> Result<Files> {
        let names = [format!("{node}.coordinator"), "coordinator".to_owned()];
        self.issue(&format!("coordinator-{node}"), &names)
    }

    /// Makes the files of a cluster's agent.
    pub(crate) fn agent(&self, cluster_id: &str) -> Result<Files> {
        self.issue(&format!("agent-{cluster_id}"), &[format!("{cluster_id}.agent")])
    }

    /// Makes the files of an operator who may do everything.
    pub(crate) fn operator(&self) -> Result<Files> {
        self.issue("operator", &["benches.admin.operator".to_owned()])
    }

    fn issue(&self, name: &str, parties: &[String]) -> Result<Files> {
        let files = Files {
            ca: self.directory.join("ca.pem"),
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        };
        let suffix = format!("{}.strongroom.internal", self.fleet);
        let names: Vec<String> = parties.iter().map(|party| format!("{party}.{suffix}")).collect();
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        write(&files.certificate, &leaf.signed_by(&key, &self.issuer)?.pem())?;
        write(&files.key, &key.serialize_pem())?;
        Ok(files)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
