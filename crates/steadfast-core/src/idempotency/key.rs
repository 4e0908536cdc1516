use std::fmt;

/// The key of one operation, as its client named it.
///
/// Identity is the content: the quoted and the bare spelling of one value are equal. `Debug` does not show it, since a key can
/// be a secret of its client.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<[u8]>);

impl IdempotencyKey {
    /// The longest key in bytes, quotes and escapes not counted. Stripe's limit, and the largest in use.
    pub const MAX_LEN: usize = 255;

    /// Parses the value of one header line.
    ///
    /// Quoted, it is an RFC 9651 String of 1 to 255 characters without parameters (draft-ietf-httpapi-idempotency-key-header
    /// section 2.1). Bare, it is 1 to 255 visible ASCII characters that do not start with a quote, as deployed clients send it.
    /// Spaces and tabs around the value are not part of it.
    ///
    /// # Errors
    ///
    /// [`MalformedKey`] for anything else; it does not repeat the value.
    pub fn parse(value: &[u8]) -> Result<Self, MalformedKey> {
        let value = trim(value);
        let content = match value.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?,
            None => bare(value)?,
        };

        match content.len() {
            0 => Err(MalformedKey(Reason::Empty)),
            1..=Self::MAX_LEN => Ok(Self(content.into())),
            _ => Err(MalformedKey(Reason::TooLong)),
        }
    }

    /// The content: what both spellings of the key have in common.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyKey").finish_non_exhaustive()
    }
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn bare(value: &[u8]) -> Result<Vec<u8>, MalformedKey> {
    if value.iter().all(u8::is_ascii_graphic) {
        Ok(value.to_vec())
    } else {
        Err(MalformedKey(Reason::Character))
    }
}

/// RFC 9651 section 4.2.5, from after the opening quote.
fn unquote(quoted: &[u8]) -> Result<Vec<u8>, MalformedKey> {
    let mut content = Vec::with_capacity(quoted.len());
    let mut rest = quoted.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'"' if rest.as_slice().is_empty() => return Ok(content),
            b'"' => return Err(MalformedKey(Reason::AfterString)),
            b'\\' => match rest.next() {
                Some(&escaped @ (b'"' | b'\\')) => content.push(escaped),
                _ => return Err(MalformedKey(Reason::Escape)),
            },
            0x20..=0x7e => content.push(byte),
            _ => return Err(MalformedKey(Reason::Character)),
        }
    }
    Err(MalformedKey(Reason::Unterminated))
}

/// A key that is neither a structured String nor a bare token of visible ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedKey(Reason);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    AfterString,
    Character,
    Empty,
    Escape,
    TooLong,
    Unterminated,
}

impl fmt::Display for MalformedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Reason::AfterString => "something follows the closing quote",
            Reason::Character => "a character is not allowed in it",
            Reason::Empty => "it is empty",
            Reason::Escape => "a backslash escapes neither a quote nor a backslash",
            Reason::TooLong => "it is longer than 255 characters",
            Reason::Unterminated => "the closing quote is missing",
        })
    }
}

impl std::error::Error for MalformedKey {}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(value: &[u8]) -> Vec<u8> {
        IdempotencyKey::parse(value).unwrap().as_bytes().to_vec()
    }

    #[test]
    fn both_spellings_are_one_key() {
        assert_eq!(content(b"\"a-1\""), content(b"a-1"));
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(content(br#""a\"b\\c""#), br#"a"b\c"#);
    }

    #[test]
    fn a_quoted_key_may_hold_spaces_and_a_bare_one_may_not() {
        assert_eq!(content(b"\" a b \""), b" a b ");
        assert!(IdempotencyKey::parse(b"a b").is_err());
    }

    #[test]
    fn white_space_around_the_value_is_not_part_of_it() {
        assert_eq!(content(b" \ta-1 "), b"a-1");
    }

    #[test]
    fn the_length_is_counted_in_content() {
        assert!(IdempotencyKey::parse(&[b'k'; 255]).is_ok());
        assert!(IdempotencyKey::parse(&[b'k'; 256]).is_err());

        let escaped = format!("\"{}\"", r"\\".repeat(255));
        assert_eq!(content(escaped.as_bytes()), vec![b'\\'; 255]);
    }

    #[test]
    fn junk_is_refused() {
        let junk: [&[u8]; 12] = [
            b"",
            b" ",
            b"\"\"",
            b"\"",
            b"\"a",
            b"\"a\";p=1",
            b"\"a\"b",
            br#""a\n""#,
            br#""a\"#,
            b"\x00",
            b"k\xff",
            "k\u{e9}".as_bytes(),
        ];

        for value in junk {
            assert!(IdempotencyKey::parse(value).is_err(), "{value:?} passed");
        }
    }

    #[test]
    fn debug_keeps_the_key_to_itself() {
        let key = IdempotencyKey::parse(b"secret-key").unwrap();

        assert!(!format!("{key:?}").contains("secret"));
    }
}
