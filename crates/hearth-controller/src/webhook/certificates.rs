//! What the webhook serves with.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use hearth_telemetry::ErrorChain;
use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// Why there is nothing to serve with.
#[derive(Debug, Error)]
pub(super) enum CertificateError {
    /// A part is missing.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Not PEM, or nothing of the kind in it.
    #[error("{part} is not PEM with what belongs there")]
    Malformed {
        part: &'static str,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// They do not belong together, or are of a kind that is not understood.
    #[error("certificate and key cannot be used together")]
    Unusable(#[source] rustls::Error),
}

/// The cryptography, passed explicitly: the process-wide default belongs to the binary.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &PROVIDER
}

/// A certificate, with what signed it, and its key, both PEM.
///
/// # Errors
/// When they are not that, or do not belong together.
pub(super) fn certified(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateError> {
    let malformed = |part| move |source| CertificateError::Malformed { part, source };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(malformed("the certificate"))?;
    if chain.is_empty() {
        return Err(CertificateError::Missing("certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(malformed("the key"))?;
    CertifiedKey::from_der(chain, key, provider()).map_err(CertificateError::Unusable)
}

/// The certificate that new connections get; none, and they are refused, until there is one.
#[derive(Default)]
pub(super) struct Certificates(RwLock<Option<Arc<CertifiedKey>>>);

impl Certificates {
    /// Serves with another one from now on; false when it is the same.
    pub(super) fn set(&self, certified: CertifiedKey) -> bool {
        let mut current = self.0.write();
        let same = |current: &Arc<CertifiedKey>| current.cert == certified.cert;
        if current.as_ref().is_some_and(same) {
            return false;
        }
        *current = Some(Arc::new(certified));
        true
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

/// Files with a certificate and its key.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Files {
    /// Takes over what the files have now. What cannot be used changes nothing: between the renewal of one file and of
    /// the other the old pair is served.
    pub(super) async fn refresh(&self, certificates: &Certificates) {
        match self.read().await {
            Ok(certified) => {
                if certificates.set(certified) {
                    tracing::info!(file = %self.certificate.display(), "serving with the certificate");
                }
            }
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "the webhook's certificate cannot be used");
            }
        }
    }

    async fn read(&self) -> Result<CertifiedKey, CertificateError> {
        let certificate = read(&self.certificate).await?;
        let key = read(&self.key).await?;
        certified(&certificate, &key)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let error = |source| CertificateError::File {
        path: path.to_owned(),
        source,
    };
    tokio::fs::read(path).await.map_err(error)
}
