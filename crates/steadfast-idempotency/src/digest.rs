use sha2::{Digest, Sha256};
use steadfast_core::idempotency::{IdempotencyKey, KeyDigest, ScopeDigest};

use crate::scope::Principal;

/// SHA-256 over a domain tag and parts, each with its length in front, so that no two lists of parts give the same bytes.
pub(crate) struct Framed(Sha256);

impl Framed {
    pub(crate) fn new(domain: &str) -> Self {
        Self(Sha256::new()).part(domain.as_bytes())
    }

    pub(crate) fn part(mut self, part: &[u8]) -> Self {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
        self
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

pub(crate) fn scope(namespace: &str, principal: &Principal) -> ScopeDigest {
    let (kind, name) = principal.parts();
    let digest = Framed::new("steadfast.scope.1")
        .part(namespace.as_bytes())
        .part(kind)
        .part(name)
        .finish();
    ScopeDigest::from_bytes(digest)
}

pub(crate) fn key(scope: &ScopeDigest, key: &IdempotencyKey) -> KeyDigest {
    let digest = Framed::new("steadfast.key.1")
        .part(scope.as_bytes())
        .part(key.as_bytes())
        .finish();
    KeyDigest::from_bytes(digest)
}

/// A key for a call that an execution makes, the same on every execution: 32 hexadecimal digits, which every provider takes.
pub(crate) fn downstream_key(key: &KeyDigest, name: &str) -> String {
    use std::fmt::Write;

    let digest = Framed::new("steadfast.derive.1")
        .part(key.as_bytes())
        .part(name.as_bytes())
        .finish();
    digest[..16]
        .iter()
        .fold(String::with_capacity(32), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn key_of(namespace: &str, principal: &Principal, text: &[u8]) -> KeyDigest {
        let text = IdempotencyKey::parse(text).unwrap();
        key(&scope(namespace, principal), &text)
    }

    #[test]
    fn two_scopes_never_share_a_row() {
        let acme = Principal::named("acme");
        let row = key_of("default", &acme, b"k");

        assert_eq!(row, key_of("default", &acme, b"\"k\""));
        assert_ne!(row, key_of("other", &acme, b"k"));
        assert_ne!(row, key_of("default", &Principal::named("acm"), b"k"));
        assert_ne!(row, key_of("default", &Principal::shared(), b"k"));
    }

    #[test]
    fn parts_cannot_slide_into_each_other() {
        let digest = |a: &str, b: &str| {
            Framed::new("t")
                .part(a.as_bytes())
                .part(b.as_bytes())
                .finish()
        };

        assert_ne!(digest("ab", "c"), digest("a", "bc"));
    }

    proptest! {
        #[test]
        fn the_same_bytes_cut_elsewhere_have_another_digest(
            bytes in vec(any::<u8>(), 0..12),
            some: [bool; 12],
            other: [bool; 12],
        ) {
            let parts = |cuts: &[bool; 12]| {
                let mut parts = vec![Vec::new()];
                for (&byte, &cut) in bytes.iter().zip(cuts) {
                    if cut {
                        parts.push(Vec::new());
                    }
                    parts.last_mut().unwrap().push(byte);
                }
                parts
            };
            let digest = |parts: &[Vec<u8>]| {
                let framed = parts.iter().fold(Framed::new("t"), |framed, part| framed.part(part));
                framed.finish()
            };
            let (some, other) = (parts(&some), parts(&other));

            prop_assert_eq!(digest(&some) == digest(&other), some == other);
        }
    }

    /// A change here makes every stored record unreachable.
    #[test]
    fn digests_stay_what_they_are() {
        let row = key_of("default", &Principal::named("acme"), b"k-1");

        assert_eq!(format!("{}", row.prefix()), "2c191989");
        assert_eq!(
            downstream_key(&row, "charge"),
            "72c11946d754f91c68e71621f03d43c1"
        );
        assert_ne!(
            downstream_key(&row, "refund"),
            downstream_key(&row, "charge")
        );
    }
}
