//! The certificates that we make, and the Secret that they are kept in.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_api::constants::WEBHOOK_SECRET;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::sign::CertifiedKey;

use super::certificates::{CertificateError, certified};

/// Keys of the Secret, as upstream has them.
const AUTHORITY: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// On the Secret: when another certificate is to be made.
const RENEW_AFTER: &str = "hearth.dev/renew-after";
/// On the Secret: the names that the certificate is for, with commas between.
const NAMES: &str = "hearth.dev/certificate-names";

/// How long a certificate is valid, as upstream's are.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long before it is made a certificate is valid, for clocks that are behind.
const SLACK: Duration = Duration::from_secs(3600);

/// A certificate with its key, and the authority that signed it and nothing else: its key is not kept.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

/// What is to be done about the Secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another certificate is to be made, for this reason.
    Due(&'static str),
    /// It is good until then, and this is to be trusted, PEM.
    Good { renew_in: Duration, bundle: Vec<u8> },
}

/// The names of a webhook that is reached through a Service, or, in a cluster whose API server is beside it, at home.
pub(super) fn names(service: &str, namespace: &str) -> Vec<String> {
    vec![
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}"),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
    ]
}

impl Pair {
    /// Makes an authority and a certificate of it, ECDSA on P-256.
    ///
    /// # Errors
    /// When a name cannot be one of a certificate, or the random source fails.
    pub(super) fn issue(names: &[String], now: Timestamp) -> Result<Self, rcgen::Error> {
        let since = now.as_second().unsigned_abs();
        let epoch = date_time_ymd(1970, 1, 1);
        let valid = |mut params: CertificateParams, name: &str| {
            params.not_before = epoch + Duration::from_secs(since).saturating_sub(SLACK);
            params.not_after = epoch + Duration::from_secs(since) + LIFE;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        // Each has a name of its own, for while one takes over from the other both are trusted.
        let mut authority = valid(
            CertificateParams::default(),
            &format!("agent-sandbox-webhook {now}"),
        );
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let issuer: &Issuer<'_, KeyPair> = &authority;

        let mut params = valid(
            CertificateParams::new(names.to_vec())?,
            "agent-sandbox-webhook",
        );
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        Ok(Self {
            authority: authority.pem(),
            certificate: params.signed_by(&key, issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// What a Secret has to serve with.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn certified(secret: &Secret) -> Result<CertifiedKey, CertificateError> {
        certified(part(secret, CERTIFICATE)?, part(secret, KEY)?)
    }

    /// What is to be trusted while this takes over from what a Secret has: both.
    pub(super) fn bundle(&self, before: Option<&Secret>) -> Vec<u8> {
        let before = before.and_then(|secret| part(secret, AUTHORITY).ok());
        let mut bundle = self.authority.clone().into_bytes();
        bundle.extend_from_slice(first_certificate(before.unwrap_or_default()));
        bundle
    }

    /// The Secret with this in it, in place of what there is.
    pub(super) fn store(
        &self,
        before: Option<&Secret>,
        names: &[String],
        now: Timestamp,
    ) -> Secret {
        let mut secret = before.cloned().unwrap_or_default();
        secret.data = Some(BTreeMap::from([
            (AUTHORITY.to_owned(), ByteString(self.bundle(before))),
            (
                CERTIFICATE.to_owned(),
                ByteString(self.certificate.clone().into_bytes()),
            ),
            (KEY.to_owned(), ByteString(self.key.clone().into_bytes())),
        ]));
        let metadata = &mut secret.metadata;
        metadata.name = Some(WEBHOOK_SECRET.to_owned());
        metadata.managed_fields = None;
        let annotations = metadata.annotations.get_or_insert_default();
        // Saturating: a clock that is that wrong makes another certificate at once.
        let renew_after = now.saturating_add(LIFE / 3 * 2).unwrap_or(now);
        annotations.insert(RENEW_AFTER.to_owned(), renew_after.to_string());
        annotations.insert(NAMES.to_owned(), names.join(","));
        secret
    }
}

/// Whether what a Secret has is good for these names.
pub(super) fn judge(secret: Option<&Secret>, names: &[String], now: Timestamp) -> Verdict {
    let Some(secret) = secret else {
        return Verdict::Due("there is none");
    };
    let bundle = match (Pair::certified(secret), part(secret, AUTHORITY)) {
        (Ok(_), Ok(bundle)) => bundle,
        _ => return Verdict::Due("what there is cannot be used"),
    };
    let annotation = |key: &str| {
        let annotations = secret.metadata.annotations.as_ref()?;
        annotations.get(key).map(String::as_str)
    };
    if annotation(NAMES) != Some(names.join(",").as_str()) {
        return Verdict::Due("what there is was made for other names, or by somebody else");
    }
    let renew_after = annotation(RENEW_AFTER).and_then(|text| text.parse::<Timestamp>().ok());
    let renew_in = renew_after.map(|renew_after| renew_after.duration_since(now));
    match renew_in.and_then(|renew_in| Duration::try_from(renew_in).ok()) {
        Some(renew_in) if !renew_in.is_zero() => Verdict::Good {
            renew_in,
            bundle: bundle.to_vec(),
        },
        _ => Verdict::Due("two thirds of its life are over"),
    }
}

fn part<'a>(secret: &'a Secret, key: &'static str) -> Result<&'a [u8], CertificateError> {
    let data = secret.data.as_ref().and_then(|data| data.get(key));
    data.map(|data| data.0.as_slice())
        .filter(|data| !data.is_empty())
        .ok_or(CertificateError::Missing(key))
}

/// The first of a bundle: the one that signed what is served now. Those behind it had their time.
fn first_certificate(bundle: &[u8]) -> &[u8] {
    const END: &[u8] = b"-----END CERTIFICATE-----";
    let end = bundle.windows(END.len()).position(|part| part == END);
    let Some(end) = end.map(|start| start + END.len()) else {
        return &[];
    };
    let line_ends = bundle[end..]
        .iter()
        .take_while(|byte| b"\r\n".contains(byte));
    &bundle[..end + line_ends.count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn ours() -> Vec<String> {
        names("agent-sandbox-webhook-service", "agent-sandbox-system")
    }

    fn is_due(secret: &Secret, now: Timestamp) -> bool {
        matches!(judge(Some(secret), &ours(), now), Verdict::Due(_))
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let pair = Pair::issue(&ours(), at(0)).unwrap();
        let secret = pair.store(None, &ours(), at(0));
        let two_thirds = 365 * 24 * 3600 / 3 * 2;
        let good = |renew_in: u64| Verdict::Good {
            renew_in: Duration::from_secs(renew_in),
            bundle: pair.authority.clone().into_bytes(),
        };
        assert_eq!(judge(Some(&secret), &ours(), at(0)), good(two_thirds));
        assert_eq!(
            judge(Some(&secret), &ours(), at(100)),
            good(two_thirds - 100)
        );
        let end = i64::try_from(two_thirds).unwrap();
        assert!(!is_due(&secret, at(end - 1)));
        assert!(is_due(&secret, at(end)));
        assert!(is_due(&secret, at(end * 10)));
    }

    #[test]
    fn a_secret_that_is_not_ours_or_not_whole_is_made_anew() {
        assert_eq!(judge(None, &ours(), at(0)), Verdict::Due("there is none"));
        let pair = Pair::issue(&ours(), at(0)).unwrap();
        let secret = pair.store(None, &ours(), at(0));
        let spoilt = |spoil: &dyn Fn(&mut Secret)| {
            let mut secret = secret.clone();
            spoil(&mut secret);
            is_due(&secret, at(0))
        };
        assert!(!spoilt(&|_| {}));
        assert!(spoilt(&|secret| secret.data = None));
        for key in [AUTHORITY, CERTIFICATE, KEY] {
            assert!(spoilt(&|secret| {
                secret.data.as_mut().unwrap().remove(key);
            }));
        }
        assert!(spoilt(&|secret| {
            let other = Pair::issue(&ours(), at(0)).unwrap().key;
            let data = secret.data.as_mut().unwrap();
            data.insert(KEY.to_owned(), ByteString(other.into_bytes()));
        }));
        // As upstream's controller leaves one.
        assert!(spoilt(&|secret| secret.metadata.annotations = None));
        let elsewhere = judge(Some(&secret), &names("other", "place"), at(0));
        assert!(matches!(elsewhere, Verdict::Due(_)));
    }

    #[test]
    fn while_one_takes_over_from_another_both_are_trusted_and_no_third() {
        let [first, second, third] = [0, 1, 2].map(|at_| Pair::issue(&ours(), at(at_)).unwrap());
        let mut secret = first.store(None, &ours(), at(0));
        secret.metadata.resource_version = Some("7".into());
        let bundle = second.bundle(Some(&secret));
        let both = format!("{}{}", second.authority, first.authority);
        assert_eq!(bundle, both.into_bytes());
        let secret = second.store(Some(&secret), &ours(), at(1));
        assert_eq!(secret.metadata.resource_version.as_deref(), Some("7"));
        let both = format!("{}{}", third.authority, second.authority);
        assert_eq!(third.bundle(Some(&secret)), both.into_bytes());
    }

    #[test]
    fn what_is_no_bundle_is_trusted_by_nobody() {
        for text in ["", "nonsense", "-----BEGIN CERTIFICATE-----\n"] {
            assert_eq!(first_certificate(text.as_bytes()), b"");
        }
    }
}
