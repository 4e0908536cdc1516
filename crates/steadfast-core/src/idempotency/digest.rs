use std::fmt;

/// The first eight hexadecimal digits of a digest: as much of it as logs, errors and `Debug` ever show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DigestPrefix([u8; 4]);

impl fmt::Display for DigestPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DigestPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn prefix<const N: usize>(bytes: &[u8; N]) -> DigestPrefix {
    let mut first = [0; 4];
    first.copy_from_slice(&bytes[..4]);
    DigestPrefix(first)
}

macro_rules! opaque {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps bytes that were made, or stored, before.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes as a store keeps them.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// What may be shown of it.
            #[must_use]
            pub fn prefix(&self) -> DigestPrefix {
                prefix(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.prefix())
            }
        }
    };
}

opaque! {
    /// The digest that names one operation: over its scope and its key. It is the primary key of the record.
    KeyDigest, 32
}

opaque! {
    /// The digest of a scope: the name space of a service and the principal whose key it is.
    ScopeDigest, 32
}

opaque! {
    /// The random name of one execution. Every transition compares it, so that a late owner changes nothing.
    ///
    /// Sixteen bytes from a cryptographic generator: two executions must never draw the same one.
    OwnerId, 16
}

/// The digest of what a request asks for, with the version of the recipe that made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    version: u8,
    digest: [u8; 32],
}

impl Fingerprint {
    /// Bytes of the stored form: the version, then the digest.
    pub const LEN: usize = 33;

    /// A fingerprint made by the recipe of this version.
    #[must_use]
    pub const fn new(version: u8, digest: [u8; 32]) -> Self {
        Self { version, digest }
    }

    /// The version of the recipe.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version
    }

    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.version;
        bytes[1..].copy_from_slice(&self.digest);
        bytes
    }

    /// Reads the stored form; `None` if the length is wrong.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&version, digest) = bytes.split_first()?;
        Some(Self {
            version,
            digest: digest.try_into().ok()?,
        })
    }

    /// What may be shown of it.
    #[must_use]
    pub fn prefix(&self) -> DigestPrefix {
        prefix(&self.digest)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint(v{} {})", self.version, self.prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_eight_digits_at_most() {
        let key = KeyDigest::from_bytes([0xab; 32]);

        assert_eq!(format!("{key:?}"), "KeyDigest(abababab)");
    }

    #[test]
    fn a_fingerprint_survives_its_stored_form() {
        let fingerprint = Fingerprint::new(1, [7; 32]);

        assert_eq!(
            Fingerprint::from_bytes(&fingerprint.to_bytes()),
            Some(fingerprint)
        );
        assert_eq!(Fingerprint::from_bytes(&[1; 32]), None);
        assert_eq!(Fingerprint::from_bytes(&[]), None);
    }
}
