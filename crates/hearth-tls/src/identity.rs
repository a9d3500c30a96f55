use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::Fingerprint;
use crate::verify::provider;

/// Certificate and key in one file, so that one rename replaces both and a crash never leaves a mismatched pair.
const FILE: &str = "identity.pem";
const TEMPORARY_FILE: &str = "identity.pem.new";

/// A key pair and the self-signed certificate that carries its public half.
///
/// Cheap to clone. `Debug` shows the fingerprint only.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

/// An identity that could not be made, stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Making the key or signing the certificate failed.
    #[error("cannot make a key and a certificate")]
    Generate(#[source] rcgen::Error),
    /// The TLS library refuses the pair.
    #[error("the certificate and the key cannot be used together")]
    Unusable(#[source] rustls::Error),
    /// The file is not what we write there.
    #[error("{path} does not hold a certificate and a key in PEM form")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Others on this machine could have read the key.
    #[error("{path} holds a private key and must have mode 0600, it has {mode:04o}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file system failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Identity {
    /// Makes a new identity. `common_name` is for people who look at the certificate; nothing depends on it.
    ///
    /// # Errors
    ///
    /// When the random source or the signature fails.
    pub fn generate(common_name: &str) -> Result<Self, IdentityError> {
        Ok(Self::generate_with_pem(common_name)?.0)
    }

    /// Reads the identity kept in `dir`, or makes one and keeps it there. The directory and the file belong to the
    /// calling user alone (0700, 0600). Blocks on disk: call it at start, not from a busy runtime.
    ///
    /// A file that is there but cannot be used is an error and is never replaced: peers hold its fingerprint.
    ///
    /// # Errors
    ///
    /// When the file system fails, the file is damaged, or others may read it.
    pub fn load_or_generate(dir: &Path, common_name: &str) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        match File::open(&path) {
            Ok(file) => Self::load(file, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (identity, pem) = Self::generate_with_pem(common_name)?;
                store(dir, &path, &pem)?;
                Ok(identity)
            }
            Err(source) => Err(io_error("open", &path)(source)),
        }
    }

    /// What peers pin.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    fn generate_with_pem(common_name: &str) -> Result<(Self, String), IdentityError> {
        let key = KeyPair::generate().map_err(IdentityError::Generate)?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let certificate = params.self_signed(&key).map_err(IdentityError::Generate)?;
        let pem = certificate.pem() + &key.serialize_pem();
        let identity = Self::from_der(
            certificate.der().clone(),
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
        Ok((identity, pem))
    }

    fn load(file: File, path: &Path) -> Result<Self, IdentityError> {
        let mode = file.metadata().map_err(io_error("look at", path))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed {
                path: path.to_path_buf(),
                mode,
            });
        }
        let pem = io::read_to_string(file).map_err(io_error("read", path))?;
        let malformed = |source| IdentityError::Malformed {
            path: path.to_path_buf(),
            source,
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(malformed)?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(malformed)?;
        Self::from_der(certificate, key)
    }

    fn from_der(
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        let fingerprint = Fingerprint::of_der(&certificate);
        // Also checks that the key belongs to the certificate.
        let certified = CertifiedKey::from_der(vec![certificate], key, provider())
            .map_err(IdentityError::Unusable)?;
        Ok(Self {
            certified: Arc::new(certified),
            fingerprint,
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// Writes the file so that after a crash or power cut it is whole or absent.
fn store(dir: &Path, path: &Path, pem: &str) -> Result<(), IdentityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io_error("create", dir))?;
    let temporary = dir.join(TEMPORARY_FILE);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io_error("create", &temporary))?;
    // `mode` applies to new files only; a leftover of an interrupted start may have another.
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(io_error("restrict", &temporary))?;
    file.write_all(pem.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io_error("write", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("rename the new identity to", path))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", dir))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_is_another() {
        let a = Identity::generate("same").unwrap();
        let b = Identity::generate("same").unwrap();
        assert_ne!(a.fingerprint(), b.fingerprint());
    }

    #[test]
    fn keeps_its_identity_across_restarts() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/tls");
        let first = Identity::load_or_generate(&dir, "node").unwrap();
        let second = Identity::load_or_generate(&dir, "renamed").unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
    }

    #[test]
    fn stores_the_key_for_its_owner_alone_even_over_a_leftover() {
        let root = tempfile::tempdir().unwrap();
        let leftover = root.path().join(TEMPORARY_FILE);
        fs::write(&leftover, "half of a file").unwrap();
        fs::set_permissions(&leftover, Permissions::from_mode(0o644)).unwrap();

        Identity::load_or_generate(root.path(), "node").unwrap();

        assert_eq!(
            fs::metadata(root.path().join(FILE)).unwrap().mode() & 0o7777,
            0o600
        );
        assert!(!leftover.exists());
        Identity::load_or_generate(root.path(), "node").unwrap();
    }

    #[test]
    fn refuses_and_keeps_a_file_that_it_cannot_trust() {
        fn check(spoil: impl FnOnce(&Path), expect: fn(&IdentityError) -> bool) {
            let root = tempfile::tempdir().unwrap();
            Identity::load_or_generate(root.path(), "node").unwrap();
            let path = root.path().join(FILE);
            spoil(&path);
            let before = fs::read(&path).unwrap();
            let error = Identity::load_or_generate(root.path(), "node").unwrap_err();
            assert!(expect(&error), "{error:?}");
            assert_eq!(fs::read(&path).unwrap(), before);
        }
        check(
            |path| fs::write(path, "").unwrap(),
            |error| matches!(error, IdentityError::Malformed { .. }),
        );
        check(
            |path| fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap(),
            |error| matches!(error, IdentityError::Exposed { mode: 0o640, .. }),
        );
        check(
            |path| {
                let certificate = fs::read_to_string(path).unwrap();
                let (certificate, _) = certificate.split_once("-----BEGIN PRIVATE").unwrap();
                fs::write(
                    path,
                    format!(
                        "{certificate}{}",
                        KeyPair::generate().unwrap().serialize_pem()
                    ),
                )
                .unwrap();
            },
            |error| matches!(error, IdentityError::Unusable(_)),
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let identity = Identity::generate("node").unwrap();
        let fingerprint = identity.fingerprint();
        assert_eq!(
            format!("{identity:?}"),
            format!("Identity {{ fingerprint: Fingerprint({fingerprint}), .. }}")
        );
    }
}
