//! Keys and certificates of the cluster: one authority, the API server's certificate, two client
//! certificates, and the key pair that signs service account tokens.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use crate::paths::Layout;
use crate::system;

/// The address of the `kubernetes` Service, the first of the service range.
pub(crate) const SERVICE_ADDRESS: &str = "10.96.0.1";
/// The address of this machine's loopback in a guest on QEMU's user network.
pub(crate) const GUEST_SEES_HOST_AS: &str = "10.0.2.2";
/// The range that Service addresses are taken from.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";

/// Where the parts are.
#[derive(Debug, Clone)]
pub(crate) struct Pki {
    dir: PathBuf,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// PEM file with the certificate.
    pub(crate) certificate: PathBuf,
    /// PEM file with the private key.
    pub(crate) key: PathBuf,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

impl Pki {
    /// Opens what exists, or makes all of it. It comes to be as a whole or not at all.
    pub(crate) fn ensure(layout: &Layout) -> Result<Self> {
        let dir = layout.pki();
        if !dir.exists() {
            let unfinished = system::sibling(&dir, ".unfinished");
            system::remove(&unfinished)?;
            system::create_dir(&unfinished)?;
            make(&unfinished)?;
            fs::rename(&unfinished, &dir)
                .with_context(|| format!("cannot move the keys to {}", dir.display()))?;
        }
        Ok(Self { dir })
    }

    /// The authority's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The API server's own certificate.
    pub(crate) fn api_server(&self) -> Pair {
        self.pair("apiserver")
    }

    /// A member of `system:masters`.
    pub(crate) fn admin(&self) -> Pair {
        self.pair("admin")
    }

    /// The controller manager.
    pub(crate) fn controller_manager(&self) -> Pair {
        self.pair("controller-manager")
    }

    /// The private key that signs service account tokens.
    pub(crate) fn token_signing_key(&self) -> PathBuf {
        self.dir.join("tokens.key")
    }

    /// The public key that verifies them.
    pub(crate) fn token_public_key(&self) -> PathBuf {
        self.dir.join("tokens.pub")
    }

    fn pair(&self, name: &str) -> Pair {
        Pair {
            certificate: self.dir.join(format!("{name}.crt")),
            key: self.dir.join(format!("{name}.key")),
        }
    }
}

fn make(dir: &Path) -> Result<()> {
    let authority = authority().context("cannot make the certificate authority")?;
    write_public(&dir.join("ca.crt"), &authority.pem())?;
    issue(dir, &authority, "apiserver", server_params()?)?;
    issue(
        dir,
        &authority,
        "admin",
        client_params("hearth-admin", Some("system:masters")),
    )?;
    issue(
        dir,
        &authority,
        "controller-manager",
        client_params("system:kube-controller-manager", None),
    )?;
    let tokens = KeyPair::generate().context("cannot make the token key")?;
    write_secret(&dir.join("tokens.key"), &tokens.serialize_pem())?;
    write_public(&dir.join("tokens.pub"), &tokens.public_key_pem())
}

fn authority() -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "hearth development cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn server_params() -> Result<CertificateParams> {
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        "::1",
        SERVICE_ADDRESS,
        GUEST_SEES_HOST_AS,
    ];
    let mut params = CertificateParams::new(names.map(str::to_owned))
        .context("the API server's names are not valid in a certificate")?;
    params
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn client_params(user: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn issue(
    dir: &Path,
    authority: &Authority,
    name: &str,
    mut params: CertificateParams,
) -> Result<()> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().with_context(|| format!("cannot make the key of {name}"))?;
    let certificate = params
        .signed_by(&key, authority)
        .with_context(|| format!("cannot sign the certificate of {name}"))?;
    write_public(&dir.join(format!("{name}.crt")), &certificate.pem())?;
    write_secret(&dir.join(format!("{name}.key")), &key.serialize_pem())
}

fn write_public(path: &Path, pem: &str) -> Result<()> {
    system::write_atomic(path, pem.as_bytes(), 0o644)
}

fn write_secret(path: &Path, pem: &str) -> Result<()> {
    system::write_atomic(path, pem.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_private_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(Some(dir.path())).unwrap();
        let pki = Pki::ensure(&layout).unwrap();
        let key = fs::read(pki.admin().key).unwrap();
        for secret in [
            pki.admin().key,
            pki.api_server().key,
            pki.controller_manager().key,
            pki.token_signing_key(),
        ] {
            let mode = fs::metadata(&secret).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", secret.display());
        }
        assert!(pki.authority().exists() && pki.token_public_key().exists());
        assert!(pki.admin().certificate.exists());
        let again = Pki::ensure(&layout).unwrap();
        assert_eq!(key, fs::read(again.admin().key).unwrap());
    }
}
